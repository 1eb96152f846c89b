"""What a part holds: `data/inventory/NN.csv`, which pins the content of an archive that DVC itself never keeps.

The first row names the archive with its size and MD5, each further row a slice with its size and CRC-32:

    file_name,bytes,crc32,md5
    Images_png_01.zip,4302204610,,6a3efff2cc8afeebcf9d532f5306807f
    000001_01_01_036.png,228129,9f3c1a2b,

Of an extracted folder a slice has its size and time of change, and the first row names the parts it was dealt out to:

    file_name,bytes,modified_ns,parts
    Images_png,,,01 02
    000001_01_01_036.png,228129,1700000000000000000,

The inventory of an archive is also remembered in the scratch folder under the archive's MD5, so that the archive may be
deleted when it has been preprocessed: `dvc repro download@NN` doesn't need it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import scratch_folder
from lesionpipe.core.formats import write_csv

INVENTORY_FOLDER = Path("data/inventory")
OF_ARCHIVE = ["file_name", "bytes", "crc32", "md5"]
OF_FOLDER = ["file_name", "bytes", "modified_ns", "parts"]

Stamps = dict[str, tuple[int, int]]  # file name -> bytes, and CRC-32 (archive) or time of change in ns (folder)


@dataclass(frozen=True)
class Inventory:
    """The slices of a part, sorted by name, and where they come from."""

    name: str  # of the archive or folder
    stamps: Stamps
    archive_bytes: int = 0
    archive_md5: str = ""  # "": an extracted folder
    parts: tuple[str, ...] = ()  # of an extracted folder: those among which it was dealt out, sorted


def inventory_path(part: str, folder: str | Path = INVENTORY_FOLDER) -> Path:
    """Where the inventory of a part lies."""
    return Path(folder) / f"{part}.csv"


def write_inventory(path: str | Path, inventory: Inventory) -> None:
    """Leave an inventory as CSV."""
    if inventory.archive_md5:
        columns, first = OF_ARCHIVE, (inventory.name, inventory.archive_bytes, "", inventory.archive_md5)
        rows = [(name, size, f"{crc:08x}", "") for name, (size, crc) in inventory.stamps.items()]
    else:
        columns, first = OF_FOLDER, (inventory.name, "", "", " ".join(inventory.parts))
        rows = [(name, *stamp, "") for name, stamp in inventory.stamps.items()]
    write_csv(path, pd.DataFrame([first, *rows], columns=columns))


def read_inventory(part: str, folder: str | Path = INVENTORY_FOLDER) -> Inventory:
    """The inventory of a part; a UserError where it is missing or isn't one."""
    path = inventory_path(part, folder)
    try:
        return _parsed(pd.read_csv(path, dtype=str, keep_default_na=False).fillna(""))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro download@{part}`") from None
    except (ValueError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a whole inventory ({reason}); run `dvc repro -f download@{part}`") from None


def _parsed(table: pd.DataFrame) -> Inventory:
    if list(table) not in (OF_ARCHIVE, OF_FOLDER):
        raise ValueError(f"columns {', '.join(table)}")
    first, slices = table.iloc[0], table.iloc[1:]
    of_archive = "crc32" in table
    if of_archive and (len(first["md5"]) != 32 or not slices["crc32"].str.fullmatch("[0-9a-f]{8}").all()):
        raise ValueError("a checksum is missing")
    if not of_archive and not first["parts"]:
        raise ValueError("the parts are missing")
    marks = (int(mark, 16 if of_archive else 10) for mark in slices.iloc[:, 2])
    stamps = dict(zip(slices["file_name"], zip(map(int, slices["bytes"]), marks, strict=True), strict=True))
    if of_archive:
        return Inventory(first["file_name"], stamps, int(first["bytes"]), first["md5"])
    return Inventory(first["file_name"], stamps, parts=tuple(first["parts"].split()))


def read_inventories(parts: Sequence[str]) -> pd.DataFrame:
    """file_name and part of every slice in these parts; of a slice in two parts the first counts.

    A UserError where an inventory is missing or isn't one, or an extracted folder was dealt out among other parts.
    """
    part_of: dict[str, str] = {}
    for part in parts:
        inventory = read_inventory(part)
        if inventory.parts and inventory.parts != tuple(sorted(parts)):
            dealt = f"the extracted folder was dealt out among the parts {', '.join(inventory.parts)}"
            wanted = f"dataset.parts = {', '.join(parts)}: run `dvc repro -f download`, then `dvc repro`"
            raise UserError(f"{inventory_path(part)}: {dealt}, but {wanted}")
        part_of |= {name: part for name in inventory.stamps if name not in part_of}
    return pd.DataFrame(part_of.items(), columns=["file_name", "part"])


def remember(inventory: Inventory) -> None:
    """Keep the inventory of an archive in the scratch folder, under the archive's MD5."""
    write_inventory(inventory_path(inventory.archive_md5, scratch_folder() / "inventories"), inventory)


def recall(md5: str) -> Inventory | None:
    """The remembered inventory of an archive; None where there is none, or none that is whole."""
    try:
        return read_inventory(md5, scratch_folder() / "inventories")
    except UserError:
        return None
