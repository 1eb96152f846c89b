"""Listing what a part holds: from a zip's directory, or from the series of an extracted folder that belong to it."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.download.inventory import Inventory
from lesionpipe.download.places import images_folder
from lesionpipe.download.reader import SERIES, ZipReader, official_name

SCANNERS = 16  # threads that list folders: a shared disk answers many questions at once


def list_archive(path: str | Path, md5: str) -> Inventory:
    """The inventory of an archive whose MD5 is known; nothing is decompressed.

    Raises:
        UserError: the archive is damaged, holds a path that leads outside or no slice at all.
    """
    path = Path(path)
    rows = [(name, size, f"{crc:08x}") for name, (size, crc) in sorted(ZipReader(path).stamps.items())]
    if not rows:
        raise UserError(f"{path}: holds no slice; expected Images_png/000001_01_01/001.png and so on")
    slices = pd.DataFrame(rows, columns=["file_name", "bytes", "crc32"])
    return Inventory(path.name, slices, path.stat().st_size, md5)


def list_folder(path: str | Path, part: str, parts: Sequence[str]) -> Inventory:
    """The inventory of the share of an extracted folder that belongs to one of `parts`.

    Raises:
        UserError: there is no such folder, no slice in it, or fewer series than parts.
    """
    root = images_folder(path)
    with os.scandir(root) as entries:
        series = sorted(entry.name for entry in entries if SERIES.fullmatch(entry.name) and entry.is_dir())
    if not series:
        raise UserError(f"{root}: holds no slice; expected 000001_01_01/001.png and so on (dataset.path)")
    if len(series) < len(parts):
        raise UserError(f"dataset.parts: {len(parts)} parts for {len(series)} series in {root}; name fewer")
    mine = [root / one for one in deal_out(series, parts)[part]]
    with ThreadPoolExecutor(SCANNERS) as pool:
        rows = [row for rows in pool.map(_list_series, mine) for row in rows]
    if not rows:
        raise UserError(f"{root}: the series of part {part} hold no slice; name fewer dataset.parts")
    slices = pd.DataFrame(rows, columns=["file_name", "bytes", "modified_ns"])
    return Inventory(root.name, slices, parts=tuple(sorted(parts)))


def deal_out(series: Sequence[str], parts: Sequence[str]) -> dict[str, list[str]]:
    """The series of each part.

    A hash of its own name puts a series into a part, so that a series more or less changes that part alone; positions
    in the sorted list would move most of the others too. With few series the hash may leave a part empty; it then takes
    one from the part that has most.
    """
    parts = sorted(parts)
    dealt: dict[str, list[str]] = {part: [] for part in parts}
    for one in sorted(series):
        number = int.from_bytes(hashlib.md5(one.encode(), usedforsecurity=False).digest()[:8])
        dealt[parts[number % len(parts)]].append(one)
    for part in parts:
        if not dealt[part]:
            dealt[part].append(max(dealt.values(), key=len).pop())
    return dealt


def _list_series(folder: Path) -> list[tuple[str, int, int]]:
    rows = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = official_name(PurePosixPath(folder.name, entry.name))
            if name:
                stat = entry.stat()
                rows.append((name, stat.st_size, stat.st_mtime_ns))
    return sorted(rows)
