"""The inventory of a part from wherever it lies: the phantom's archive, given archives, NIH's, an extracted folder.

The archives themselves (238 GB) are no output of DVC. They are verified once where they lie and may be deleted when
their part has been preprocessed: their inventory is remembered.
"""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import checksum
from lesionpipe.download.archives import Archive, archives_of
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.inventory import Inventory, Stamps, read_inventory, recall, remember
from lesionpipe.download.places import archive_path, archives_folder, images_folder
from lesionpipe.download.queue import fetch_all, verify_all
from lesionpipe.download.reader import SERIES, ZipReader, official_name

SLICES = Path("data/slices")
SCANNERS = 16  # threads that list folders: a shared disk answers many questions at once


def take_phantom(part: str) -> Inventory:
    """The inventory of the phantom's archive."""
    return list_archive(archive_path("phantom", None, part), way_to_get="run `dvc repro phantom`")


def take_archive(
    part: str,
    path: str | None,
    table: str | Path,
    parts: Sequence[str] = (),
    policy: RetryPolicy | None = None,
    at_a_time: int = 1,
) -> Inventory:
    """The inventory of an archive in the folder `path`, or the remembered one where the archive is gone.

    With a `policy` it is downloaded, and meanwhile those of `parts` that are still needed, `at_a_time` archives at a
    time; without one it is only verified. A UserError where the archive is missing or damaged or can't be fetched, or
    the disk is too small for what is to come.
    """
    (archive,), folder = archives_of([part], table), archives_folder(path)
    there = (folder / archive.name).exists()
    known = None if there else recall(archive.md5)
    if known:
        return known
    if policy:
        later = sorted(archives_of(parts, table), key=lambda other: (other.part < part, other.part))
        ahead = [a for a in later if a != archive and not (there or (folder / a.name).exists() or recall(a.md5))]
        fetch_all([archive], folder, policy, at_a_time, ahead)
    else:
        verify_all([archive], folder, at_a_time)
    inventory = list_archive(folder / archive.name, archive.md5)
    remember(inventory)
    return inventory


def is_preprocessed(archive: Archive) -> bool:
    """Whether data/slices holds what was made of this archive, by its MD5 in the inventory and the names of the slices.

    Slices of the phantom or of another source bear the same part's number; they don't count.
    """
    if not (SLICES / f"{archive.part}.npy").exists():
        return False
    try:
        inventory = read_inventory(archive.part)
        names = pd.read_csv(SLICES / f"{archive.part}.csv", usecols=["file_name"], dtype=str)["file_name"]
    except (UserError, FileNotFoundError, ValueError):
        return False
    return inventory.archive_md5 == archive.md5 and bool(names.isin(inventory.stamps).all())


def list_archive(path: Path, md5: str | None = None, way_to_get: str = "fetch it again") -> Inventory:
    """The inventory of an archive, nothing decompressed; a UserError where it is missing, damaged or has no slice."""
    stamps = dict(sorted(ZipReader(path, way_to_get).stamps.items()))
    if not stamps:
        raise UserError(f"{path}: holds no slice; expected Images_png/000001_01_01/001.png and so on")
    return Inventory(path.name, stamps, path.stat().st_size, md5 or checksum(path))


def list_folder(path: str | Path, part: str, parts: Sequence[str]) -> Inventory:
    """A part's share of an extracted folder; a UserError where that holds no slice, or fewer series than parts."""
    root = images_folder(path)
    with os.scandir(root) as entries:
        series = [entry.name for entry in entries if SERIES.fullmatch(entry.name) and entry.is_dir()]
    if not series:
        raise UserError(f"{root}: holds no slice; expected 000001_01_01/001.png and so on (dataset.path)")
    if len(series) < len(parts):
        raise UserError(f"dataset.parts: {len(parts)} parts for {len(series)} series in {root}; name fewer")
    with ThreadPoolExecutor(SCANNERS) as pool:
        found = pool.map(_list_series, [root / one for one in deal_out(series, parts)[part]])
        stamps = {name: stamp for one in found for name, stamp in one.items()}
    if not stamps:
        raise UserError(f"{root}: the series of part {part} hold no slice; name fewer dataset.parts")
    return Inventory(root.name, stamps, parts=tuple(sorted(parts)))


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


def _list_series(folder: Path) -> Stamps:
    stamps = {}
    for path in sorted(folder.iterdir()):
        if name := official_name(path):
            stat = path.stat()
            stamps[name] = stat.st_size, stat.st_mtime_ns
    return stamps
