"""The 56 archives of DeepLesion: addresses, sizes and checksums (`archives.tsv`), and how a file is checked by them.

DeepLesion (Yan et al., J. Med. Imaging 2018; paper, sec. 3) comes as 56 zip archives of 16-bit PNG slices, 238 GB in
all. A table of the same five columns with other addresses (a mirror) may stand for the official one: `dataset.listing`.

Half-fetched archives and notes of what was verified live in a scratch folder outside DVC: `scratch/`, or the folder
that the environment variable LESIONPIPE_SCRATCH names.
"""

import csv
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import CHUNK, read_json
from lesionpipe.core.formats import write_json

OFFICIAL = Path(__file__).with_name("archives.tsv")
COLUMNS = ("name", "url", "bytes", "md5", "sha256")
RAW = Path("data/raw")  # a folder per part
POINTER = "source.json"  # in the folder of a part that lies elsewhere: {"path": …, …}
NAME = re.compile(r"Images_png_([0-9]{2})\.zip")


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
        return NAME.fullmatch(self.name)[1]


def archive_name(part: str) -> str:
    """Official file name of a part's archive: "01" -> "Images_png_01.zip"."""
    return f"Images_png_{part}.zip"


def images_of(part: str, raw: str | Path = RAW) -> Path:
    """The zip archive of a part, or the extracted folder that holds it.

    Raises:
        UserError: the part isn't there, or what its pointer names has gone.
    """
    folder = Path(raw) / part
    if not (folder / POINTER).exists():
        return folder / archive_name(part)
    path = Path(read_json(folder / POINTER)["path"])
    if not path.exists():
        raise UserError(f"{path}: no longer there; set dataset.path anew")
    return path


def read_archives(path: str | Path = OFFICIAL) -> dict[str, Archive]:
    """The archives of a table (tab-separated; name, url, bytes, md5, sha256) by part.

    Raises:
        UserError: the file is missing, a column is missing, or a value is not what its column holds.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8-sig") as handle:
            rows = list(csv.DictReader(handle, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as a table of archives ({error}); see dataset.listing") from None
    archives = [_archive(path, line, row) for line, row in enumerate(rows, start=2)]
    return {archive.part: archive for archive in archives}


def _archive(path: str | Path, line: int, row: dict) -> Archive:
    patterns = (NAME, re.compile(r"https?://\S+"), re.compile("[0-9]{1,15}"), re.compile("[0-9a-f]{32}"))
    for column, pattern in zip(COLUMNS, patterns, strict=False):
        if not pattern.fullmatch(row.get(column) or ""):
            raise UserError(f"{path}: line {line}: {column} = {row.get(column)!r} is not as in {OFFICIAL.name}")
    return Archive(row["name"], row["url"], int(row["bytes"]), row["md5"])


def archive_of(part: str, archives: dict[str, Archive], table: str | Path = OFFICIAL) -> Archive:
    """The archive of a part.

    Raises:
        UserError: there is no such part.
    """
    if part not in archives:
        have = f"{min(archives)} to {max(archives)}" if archives else "none"
        raise UserError(f'dataset.parts: there is no part "{part}" in {table}; it has {have}')
    return archives[part]


def scratch_folder() -> Path:
    """Folder for what DVC must not see: LESIONPIPE_SCRATCH, or `scratch` in the repository."""
    return Path(os.environ.get("LESIONPIPE_SCRATCH") or "scratch")


def verify(path: Path, archive: Archive, on_bytes: Callable[[int], object] = lambda count: None) -> None:
    """Compare a file with the archive's published size and MD5, once: an unchanged file (size, time) is not read again.

    Raises:
        UserError: the file is missing or is not the archive; both values are named.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {archive.name} is expected there") from None
    if stat.st_size != archive.bytes:
        raise UserError(f"{path}: has {stat.st_size:,} bytes, {archive.name} has {archive.bytes:,}: fetch it again")
    seen = {"path": str(path.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "md5": archive.md5}
    note = scratch_folder() / "verified" / f"{hashlib.sha256(seen['path'].encode()).hexdigest()[:32]}.json"
    if note.exists() and read_json(note) == seen:
        on_bytes(stat.st_size)
        return
    found = _md5(path, on_bytes)
    if found != archive.md5:
        raise UserError(f"{path}: has MD5 {found}, {archive.name} has {archive.md5}: it is damaged, fetch it again")
    write_json(note, seen)


def _md5(path: Path, on_bytes: Callable[[int], object]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def dvc_cache() -> Path | None:
    """DVC's cache of this repository, or None outside of one."""
    if not Path(".dvc").is_dir():
        return None
    answer = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], capture_output=True, text=True, check=False)
    return Path(answer.stdout.strip()) if answer.returncode == 0 else None


def cache_file(cache: Path, md5: str) -> Path:
    """Where DVC keeps the contents of this MD5 (".dir" at its end for a folder's list)."""
    return cache / "files" / "md5" / md5[:2] / md5[2:]


def require_space(folder: Path, needed: int, what: str) -> None:
    """Stop before the work when the disk of `folder` can't take `needed` more bytes.

    Raises:
        UserError: both figures are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder}: {what} still needs {needed / 1e9:.3f} GB, the disk has {free / 1e9:.3f} GB free; free some, "
            "point LESIONPIPE_SCRATCH at a larger disk, or go part by part (README, Little disk)"
        )
