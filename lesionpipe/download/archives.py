"""The 56 archives of DeepLesion: addresses, sizes and MD5s, in `archives.tsv`.

DeepLesion (Yan et al., J. Med. Imaging 2018; paper, sec. 3) comes as 56 zip archives of 16-bit PNG slices, 238 GB in
all. A table of the same four columns with other addresses (a mirror) may replace the official one: `download.archives`.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionpipe.core.errors import UserError

OFFICIAL_TABLE = Path(__file__).with_name("archives.tsv")
_NAME = re.compile(r"Images_png_([0-9]{2})\.zip")
ARCHIVE_COLUMNS = {  # of the table; what each value must be like
    "name": _NAME,
    "url": re.compile(r"https?://\S+"),
    "bytes": re.compile("[0-9]{1,15}"),
    "md5": re.compile("[0-9a-f]{32}"),
}


@dataclass(frozen=True)
class Archive:
    """One zip archive as published: file name, address, size in bytes, MD5."""

    name: str
    url: str
    bytes: int
    md5: str

    @property
    def part(self) -> str:
        """Two digits, "01" to "56"."""
        return _NAME.fullmatch(self.name)[1]


def read_archives(path: str | Path = OFFICIAL_TABLE) -> dict[str, Archive]:
    """The archives of a table (tab-separated, with a header of at least name, url, bytes and md5) by part.

    Raises:
        UserError: the file is missing, a column is missing, a value is not what its column holds, or a part is there
            twice.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: not readable as a table of archives ({error}); see download.archives") from None
    archives: dict[str, Archive] = {}
    for line, row in enumerate(rows, start=2):
        archive = _archive(path, line, row)
        if archives.setdefault(archive.part, archive) != archive:
            raise UserError(f"{path}: line {line}: {archive.name} is there twice; remove one of the lines")
    return archives


def _archive(path: str | Path, line: int, row: dict) -> Archive:
    for column, pattern in ARCHIVE_COLUMNS.items():
        if not pattern.fullmatch(row.get(column) or ""):
            raise UserError(f"{path}: line {line}: {column} = {row.get(column)!r} is not as in {OFFICIAL_TABLE.name}")
    return Archive(row["name"], row["url"], int(row["bytes"]), row["md5"])


def archives_of(parts: Sequence[str], table: str | Path = OFFICIAL_TABLE) -> list[Archive]:
    """The archives of these parts.

    Raises:
        UserError: the table isn't one, or lacks a part.
    """
    archives = read_archives(table)
    for part in parts:
        if part not in archives:
            have = f"{min(archives)} to {max(archives)}" if archives else "none"
            raise UserError(f'there is no part "{part}" in {table}; it has {have} (dataset.parts)')
    return [archives[part] for part in parts]
