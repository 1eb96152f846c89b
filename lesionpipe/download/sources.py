"""Where the slices of a part come from: the phantom, NIH's archives, a folder of archives, or an extracted folder.

`provide` leaves `data/raw/NN`. Fetched and drawn archives lie in it. What lies elsewhere already is read in place:
`data/raw/NN/source.json` then only points there, because DVC copies linked files into its cache, keeping all twice.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML

from lesionpipe import phantom
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_folder, atomic_path
from lesionpipe.core.formats import write_json
from lesionpipe.core.progress import progress
from lesionpipe.download import inventory
from lesionpipe.download.archives import (
    POINTER,
    RAW,
    Archive,
    archive_name,
    archive_of,
    cache_file,
    dvc_cache,
    read_archives,
    require_space,
    verify,
)
from lesionpipe.download.queue import bytes_to_come, downloads_folder, fetch_first
from lesionpipe.download.transfer import Patience
from lesionpipe.params import Dataset, Phantom

TRUE_MASKS = Path("data/true_masks")


def provide(part: str, dataset: Dataset, drawing: Phantom, patience: Patience, workers: int) -> None:
    """Make `data/raw/NN`, `data/inventory/NN.csv` and `data/true_masks/NN.zip` (empty but for the phantom) of a part.

    Raises:
        UserError: the source lacks the part, or what it has is damaged or can't be fetched.
    """
    if part not in dataset.parts:
        raise UserError(f'part "{part}" is not in dataset.parts')
    for leftover in RAW.glob(f".{part}.*.partial"):  # of a killed run
        shutil.rmtree(leftover)
    if dataset.source == "phantom":
        slices = _draw(part, drawing, workers)
    elif dataset.source == "nih":
        slices = _take_archive(part, dataset, patience)
    elif dataset.source == "archives":
        slices = _point_to_archive(part, dataset)
    else:
        slices = _point_to_folder(part, dataset)
    if dataset.source != "phantom":
        with atomic_path(TRUE_MASKS / f"{part}.zip") as temporary, zipfile.ZipFile(temporary, "w"):
            pass  # nobody knows the true masks of real lesions
    inventory.write_inventory(part, slices)
    print(f"part {part}: {len(slices)} slices")


def _draw(part: str, drawing: Phantom, workers: int) -> pd.DataFrame:
    """Draw a part of the phantom; its true masks go to a place of their own, which outlives a dropped archive."""
    with atomic_folder(RAW / part) as folder:
        phantom.write_part(part, drawing, folder, workers)
        TRUE_MASKS.mkdir(parents=True, exist_ok=True)
        (folder / f"true_masks_{part}.zip").replace(TRUE_MASKS / f"{part}.zip")
    return inventory.list_zip(RAW / part / archive_name(part))


def archives_of(parts: Sequence[str], dataset: Dataset) -> list[Archive]:
    """The archives of these parts in the table `dataset.listing`."""
    table = read_archives(dataset.listing)
    return [archive_of(part, table, dataset.listing) for part in parts]


def _take_archive(part: str, dataset: Dataset, patience: Patience) -> pd.DataFrame:
    """Take an archive from DVC's cache, where it lies under its MD5 once it was fetched, or fetch it."""
    archive, cache = archives_of([part], dataset)[0], dvc_cache()
    cached = _verified_in_cache(archive, cache)
    path = cached or _fetch(archive, dataset, cache, patience)
    slices = inventory.list_zip(path)
    with atomic_folder(RAW / part) as folder:
        _link_or_copy(path, folder / archive.name)
    if not cached:
        path.unlink()  # last, so that a kill loses nothing
    return slices


def _fetch(archive: Archive, dataset: Dataset, cache: Path | None, patience: Patience) -> Path:
    """Fetch one archive, and meanwhile the next ones that no earlier run has provided."""
    others = not_provided([a for a in archives_of(dataset.parts, dataset) if a != archive], cache)
    queue = [archive, *sorted(others, key=lambda other: (other.part < archive.part, other.part))]
    require_space(downloads_folder(), bytes_to_come(queue), f"downloading {len(queue)} archives")
    RAW.mkdir(parents=True, exist_ok=True)
    if RAW.stat().st_dev != downloads_folder().stat().st_dev:
        require_space(RAW, archive.bytes, archive.name)
    return fetch_first(queue, patience)


def not_provided(archives: Sequence[Archive], cache: Path | None, lock: str | Path = "dvc.lock") -> list[Archive]:
    """Those that are not here (in the working tree or DVC's cache) nor were here and have been dropped since.

    A part of the phantom, or of another source, bears the same names; it provides nothing.
    """
    stages = _stages(Path(lock))

    def provided(archive: Archive) -> bool:
        path = RAW / archive.part / archive.name
        if path.exists() and path.stat().st_size == archive.bytes:
            return True
        tracked = stages.get(f"download@{archive.part}", {}).get("params", {}).get("params.yaml", {})
        dropped = tracked.get("dataset.source") == "nih" and inventory.path_of(archive.part).exists()
        return dropped or bool(cache and cache_file(cache, archive.md5).exists())

    return [archive for archive in archives if not provided(archive)]


def _verified_in_cache(archive: Archive, cache: Path | None) -> Path | None:
    path = cache_file(cache, archive.md5) if cache else None
    if path is None or not path.exists():
        return None
    try:
        verify(path, archive)
    except UserError as error:
        print(f"DVC's cache: {error}; it is fetched again")
        return None
    return path


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)


def _point_to_archive(part: str, dataset: Dataset) -> pd.DataFrame:
    """Verify a given archive, once, and point to it."""
    archive = archives_of([part], dataset)[0]
    path = Path(dataset.path).absolute() / archive.name
    with progress(None, f"verify {archive.name}", archive.bytes, "B", unit_scale=True) as bar:
        verify(path, archive, bar.update)
    slices = inventory.list_zip(path)
    _write_pointer(part, {"source": "archives", "path": str(path), "bytes": archive.bytes, "md5": archive.md5})
    return slices


def _point_to_folder(part: str, dataset: Dataset) -> pd.DataFrame:
    """Point to an extracted folder; the inventory's digest in the pointer tells DVC when the part's slices changed."""
    path = inventory.images_folder(dataset.path)
    slices = inventory.read_listing(dataset.listing, part)
    _write_pointer(part, {"source": "folder", "path": str(path), "inventory": inventory.digest(slices)})
    return slices


def _write_pointer(part: str, pointer: dict) -> None:
    with atomic_folder(RAW / part) as folder:
        write_json(folder / POINTER, pointer)


def check_drop(part: str, lock: str | Path = "dvc.lock") -> str:
    """Check that a part's archive can be dropped; gives the hash under which DVC keeps its folder.

    Raises:
        UserError: there is no such part, it isn't preprocessed yet, or its data is read where it lies.
    """
    if not re.fullmatch("[0-9]{2}", part):
        raise UserError(f'part "{part}": there is no such part; a part is two digits, such as 01')
    if (RAW / part / POINTER).exists():
        raise UserError(f"part {part}: {RAW / part} only points to data that lies elsewhere; nothing to drop")
    stages = _stages(Path(lock))  # once: with 56 parts it takes seconds to read
    made, raw = _outs(stages, f"preprocess@{part}"), _outs(stages, f"download@{part}")
    if not made:
        raise UserError(f"part {part}: never preprocessed; is it one of dataset.parts, and has `dvc repro` run?")
    if not all(Path(out).exists() for out in made) or not raw:
        raise UserError(f"part {part}: not preprocessed yet; run `dvc repro --allow-missing preprocess@{part}` first")
    return raw[str(RAW / part)]


def drop(part: str, lock: str | Path = "dvc.lock") -> int:
    """Remove a preprocessed part's archive from the working tree and from DVC's cache; gives the bytes freed.

    Its other outputs stay, and `dvc repro --allow-missing` takes its stages for done.

    Raises:
        UserError: see `check_drop`.
    """
    digest, freed = check_drop(part, lock), 0
    shutil.rmtree(RAW / part, ignore_errors=True)
    cache = dvc_cache()
    listing = cache_file(cache, digest) if cache else None
    if listing and listing.exists():
        for entry in json.loads(listing.read_text()):
            file = cache_file(cache, entry["md5"])
            freed += file.stat().st_size if file.exists() else 0
            file.unlink(missing_ok=True)
        listing.unlink()
    return freed


def _outs(stages: dict[str, dict], stage: str) -> dict[str, str]:
    """Path -> hash of the outputs of a stage as DVC recorded them."""
    return {out["path"]: out.get("md5", "") for out in stages.get(stage, {}).get("outs", [])}


def _stages(lock: Path) -> dict[str, dict]:
    """What DVC recorded of each stage when it last ran."""
    return YAML(typ="safe", pure=True).load(lock.read_text())["stages"] if lock.exists() else {}
