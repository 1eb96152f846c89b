"""The 56 archives of DeepLesion: addresses, sizes and MD5s, in `archives.tsv`.

DeepLesion (Yan et al., J. Med. Imaging 2018; paper, sec. 3) comes as 56 zip archives of 16-bit PNG slices, 238 GB in
all. A table of the same four columns with other addresses (a mirror) may replace the official one: `download.archives`.
"""

import csv
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic.dataclasses import dataclass

from lesionpipe.core.errors import UserError

OFFICIAL_TABLE = Path(__file__).with_name("archives.tsv")


@dataclass(frozen=True)
class Archive:
    """One zip archive as published: file name, address, size in bytes, MD5."""

    name: Annotated[str, Field(pattern=r"^Images_png_[0-9]{2}\.zip$")]
    url: Annotated[str, Field(pattern=r"^https?://\S+$")]
    bytes: Annotated[int, Field(ge=0, lt=10**15)]
    md5: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]

    @property
    def part(self) -> str:
        """Two digits, "01" to "56"."""
        return self.name.removeprefix("Images_png_").removesuffix(".zip")


def read_archives(path: str | Path) -> dict[str, Archive]:
    """The archives of a table (tab-separated, with a header of at least name, url, bytes and md5) by part.

    A UserError where the file or a column is missing, a value isn't what its column holds, or a part is there twice.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a table of archives ({error}); see download.archives") from None
    archives: dict[str, Archive] = {}
    for line, row in enumerate(rows, start=2):
        try:
            archive = Archive(**{field.name: row.get(field.name) for field in fields(Archive)})
        except ValidationError as error:
            column, value = error.errors()[0]["loc"][0], error.errors()[0]["input"]
            raise UserError(f"{path}: line {line}: {column} = {value!r} is not as in {OFFICIAL_TABLE.name}") from None
        if archives.setdefault(archive.part, archive) != archive:
            raise UserError(f"{path}: line {line}: {archive.name} is there twice; remove one of the lines")
    return archives


def archives_of(parts: Sequence[str], table: str | Path) -> list[Archive]:
    """The archives of these parts; a UserError where the table isn't one, or lacks a part."""
    archives = read_archives(table)
    for part in parts:
        if part not in archives:
            have = f"{min(archives)} to {max(archives)}" if archives else "none"
            raise UserError(f'there is no part "{part}" in {table}; it has {have} (dataset.parts)')
    return [archives[part] for part in parts]
