"""From where archives lie to the inventory of a part: the phantom's archive, given archives, NIH's.

The archives themselves (238 GB) are no output of DVC. They are verified once where they lie and may be deleted when
their part has been preprocessed: their inventory is remembered.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import checksum
from lesionpipe.core.progress import progress
from lesionpipe.download.archives import Archive, archives_of
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.inventory import Inventory, inventory_path, read_inventory, recall, remember
from lesionpipe.download.listing import list_archive
from lesionpipe.download.places import archive_path, archives_folder
from lesionpipe.download.queue import fetch_first
from lesionpipe.download.verification import verify

SLICES = Path("data/slices")


def take_phantom(part: str) -> Inventory:
    """The inventory of the phantom's archive.

    Raises:
        UserError: it isn't there.
    """
    path = archive_path("phantom", None, part)
    if not path.is_file():
        raise UserError(f"{path}: no such archive; run `dvc repro phantom@{part}`")
    return list_archive(path, checksum(path))


def take_given(part: str, path: str, table: str | Path) -> Inventory:
    """The inventory of an archive that lies in the folder `path`, verified, or the remembered one when it is gone.

    Raises:
        UserError: the archive isn't there and never was, or it is damaged.
    """
    archive = archives_of([part], table)[0]
    target = archives_folder(path) / archive.name
    known = None if target.exists() else recall(archive.md5)
    if known:
        return known
    with progress(None, f"verify {archive.name}", archive.bytes, "B", unit_scale=True) as bar:
        verify(target, archive, bar.update)
    return _listed(archive, target)


def take_nih(
    part: str, path: str | None, parts: Sequence[str], table: str | Path, policy: RetryPolicy, at_a_time: int
) -> Inventory:
    """The inventory of one of NIH's archives, downloaded into the folder `path` unless it is there or remembered.

    Meanwhile the archives of the other `parts` are fetched ahead, `at_a_time` at a time.

    Raises:
        UserError: the archive can't be fetched, or the disk is too small for all that are to come.
    """
    archive, folder = archives_of([part], table)[0], archives_folder(path)
    target = folder / archive.name
    known = None if target.exists() else recall(archive.md5)
    if known:
        return known
    later = sorted(archives_of(parts, table), key=lambda other: (other.part < part, other.part))
    ahead = [a for a in later if a.part != part and not (folder / a.name).exists() and not recall(a.md5)]
    fetch_first([archive, *([] if target.exists() else ahead)], folder, policy, at_a_time)
    return _listed(archive, target)


def _listed(archive: Archive, path: Path) -> Inventory:
    inventory = list_archive(path, archive.md5)
    remember(inventory)
    return inventory


def is_preprocessed(archive: Archive) -> bool:
    """Whether data/slices holds what was made of this archive, by its MD5 in the inventory and the names of the slices.

    Slices of the phantom or of another source bear the same part's number; they don't count.
    """
    table, store = SLICES / f"{archive.part}.csv", SLICES / f"{archive.part}.npy"
    if not (inventory_path(archive.part).exists() and table.exists() and store.exists()):
        return False
    inventory = read_inventory(archive.part)
    try:
        names = pd.read_csv(table, usecols=["file_name"], dtype=str)["file_name"]
    except ValueError:
        return False
    return inventory.archive_md5 == archive.md5 and bool(names.isin(inventory.slices["file_name"]).all())
