"""What lies in a part: one row per slice, from a zip's directory or from an extracted folder.

`data/inventory/NN.csv` tells the annotations which key slices are there. For an extracted folder the listing holds time
stamps too, so that DVC notices a changed folder without reading 238 GB.
"""

import hashlib
import os
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_csv
from lesionpipe.download.reader import ZipReader, official_name

FOLDER = Path("data/inventory")
ANNOTATIONS = "DL_info.csv"
LISTED = ["file_name", "part", "bytes", "modified_ns"]
SCANNERS = 16  # threads that list folders: a shared disk answers many questions at once


def list_zip(path: str | Path) -> pd.DataFrame:
    """Slices of an archive, sorted: file_name, bytes (uncompressed).

    Raises:
        UserError: the archive is damaged, holds a path that leads outside or no slice at all.
    """
    ZipReader(path)  # refuses what is unsafe
    with zipfile.ZipFile(path) as archive:
        sizes = {official_name(PurePosixPath(m.filename)): m.file_size for m in archive.infolist() if not m.is_dir()}
    sizes.pop(None, None)
    if not sizes:
        raise UserError(f"{path}: holds no slice; expected Images_png/000001_01_01/001.png and so on")
    return pd.DataFrame(sorted(sizes.items()), columns=["file_name", "bytes"])


def images_folder(path: str | Path) -> Path:
    """The absolute folder of series folders at `path`, which may be itself or the one that holds `Images_png`.

    Raises:
        UserError: there is no such folder.
    """
    inner = Path(path) / "Images_png"
    root = inner if inner.is_dir() else Path(path)
    if not root.is_dir():
        raise UserError(f"dataset.path: {path}: no such folder; it should be Images_png or the folder that holds it")
    return root.absolute()


def list_folder(path: str | Path, parts: Sequence[str]) -> pd.DataFrame:
    """Slices of an extracted folder, sorted and dealt out to parts: file_name, part, bytes, modified_ns.

    The series go to the parts in order and evenly. The DL_info.csv beside the slices is listed as well, with no part.

    Raises:
        UserError: there is no such folder, no slice in it, or fewer series than parts.
    """
    root = images_folder(path)
    with os.scandir(root) as entries:
        series = sorted(entry.path for entry in entries if entry.is_dir())
    with ThreadPoolExecutor(SCANNERS) as pool:
        listed = [rows for rows in pool.map(_list_series, series) if rows]
    if not listed:
        raise UserError(f"dataset.path: {root}: holds no slice; expected 000001_01_01/001.png and so on")
    if len(listed) < len(parts):
        raise UserError(f"dataset.parts: {len(parts)} parts for {len(listed)} series in {root}; name fewer")
    part_of = [parts[position * len(parts) // len(listed)] for position in range(len(listed))]
    rows = [(name, part, *stat) for part, found in zip(part_of, listed, strict=True) for name, *stat in found]
    annotations = annotations_beside(root)
    if annotations:
        rows.append((ANNOTATIONS, "", annotations.stat().st_size, annotations.stat().st_mtime_ns))
    return pd.DataFrame(rows, columns=LISTED)


def annotations_beside(path: str | Path) -> Path | None:
    """DL_info.csv in a folder or beside it."""
    for folder in (Path(path), Path(path).parent):
        if (folder / ANNOTATIONS).is_file():
            return folder / ANNOTATIONS
    return None


def _list_series(folder: str) -> list[tuple[str, int, int]]:
    series, rows = Path(folder).name, []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = official_name(PurePosixPath(series, entry.name))
            if name:
                stat = entry.stat()
                rows.append((name, stat.st_size, stat.st_mtime_ns))
    return sorted(rows)


def digest(inventory: pd.DataFrame) -> str:
    """A short name for exactly this inventory."""
    return hashlib.md5(inventory.to_csv(index=False).encode(), usedforsecurity=False).hexdigest()


def read_listing(path: str | Path, part: str) -> pd.DataFrame:
    """A part's slices in the listing of an extracted folder that the stage `listing` left, without the part.

    Raises:
        UserError: it is missing, isn't one, or lacks the part.
    """
    try:
        listing = pd.read_csv(path, dtype={"file_name": str, "part": str})[LISTED]
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"dataset.listing: {path} is no listing of a folder; with source: folder, set dataset.watch: [folder] and "
            "dataset.listing: data/listing.csv (presets/deeplesion-folder.yaml)"
        ) from None
    mine = listing[listing["part"] == part]
    if mine.empty:
        raise UserError(f'{path}: has no part "{part}"; run `dvc repro listing`')
    return mine.drop(columns="part")


def path_of(part: str, folder: str | Path = FOLDER) -> Path:
    """Where the inventory of a part lies."""
    return Path(folder) / f"{part}.csv"


def write_inventory(part: str, inventory: pd.DataFrame, folder: str | Path = FOLDER) -> None:
    """Leave a part's inventory."""
    write_csv(path_of(part, folder), inventory)


def read_inventories(parts: Sequence[str], folder: str | Path = FOLDER) -> pd.DataFrame:
    """file_name and part of every slice in these parts; of a slice in two parts the first counts.

    Raises:
        UserError: an inventory is missing or isn't one.
    """
    tables = []
    for part in parts:
        path = path_of(part, folder)
        try:
            tables.append(pd.read_csv(path, usecols=["file_name"], dtype=str).assign(part=part))
        except FileNotFoundError:
            raise UserError(f"{path}: no such file; run `dvc repro download@{part}`") from None
        except ValueError as error:
            raise UserError(f"{path}: {error}; run `dvc repro -f download@{part}`") from None
    return pd.concat(tables, ignore_index=True).drop_duplicates("file_name", ignore_index=True)
