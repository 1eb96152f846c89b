"""How good the masks of a data set are: their table, agreement with true masks where known, pictures to look at."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.data.geometry import to_stored
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.slices import SliceStore
from lesionpipe.masks.batch import read_table, slice_hu, slice_tasks
from lesionpipe.masks.contact_sheet import Example
from lesionpipe.masks.summary import measure
from lesionpipe.phantom import read_true_masks

MASKS, SLICES, TRUE_MASKS, DL_INFO = "data/masks", "data/slices", "data/true_masks", "data/raw/DL_info.csv"


def mask_table(parts: Sequence[str], lesions: pd.DataFrame) -> pd.DataFrame:
    """A row per mask: lesion, method, reason, area_px, and the lesion's columns of data/lesions.csv."""
    tables = [read_table(f"{MASKS}/{part}.csv") for part in parts]
    return pd.concat(tables, ignore_index=True).merge(lesions, on="lesion")


def true_masks(parts: Sequence[str]) -> dict[int, np.ndarray]:
    """Lesion number -> true mask bool (H, W) of the archive's slice; only the phantom has any."""
    known = {key: mask for part in parts for key, mask in read_true_masks(f"{TRUE_MASKS}/{part}.zip").items()}
    if not known:
        return {}
    names = pd.read_csv(Path(DL_INFO), usecols=["File_name"])["File_name"]
    keys = zip(names, names.groupby(names).cumcount() + 1, strict=True)
    return {lesion: known[key] for lesion, key in enumerate(keys, start=1) if key in known}


def true_agreement(parts: Sequence[str], table: pd.DataFrame, true: dict[int, np.ndarray]) -> pd.DataFrame:
    """Agreement of masks with the true ones: lesion, dice, boundary_mm; a lesion without a true mask is left out."""
    store, spacing = MaskStore.open(MASKS, parts), table.set_index("lesion")["spacing_mm"]
    rows = []
    for part in parts:
        for row in range(store.rows(part)):
            for lesion, mask in zip(*store.of_slice(part, row), strict=True):
                if int(lesion) in true:
                    rows.append((int(lesion), *measure(mask, true[int(lesion)], spacing[lesion])))
    return pd.DataFrame(rows, columns=["lesion", "dice", "boundary_mm"])


def examples(shown: pd.DataFrame, true: dict[int, np.ndarray]) -> list[Example]:
    """The lesions of `shown` (rows of `mask_table`) as pictures of the contact sheet, in its order."""
    found = {}
    for part, rows in shown.groupby("part"):
        index = SliceStore.open(SLICES, [part]).index
        known = rows.set_index("lesion")
        for task in slice_tasks(f"{SLICES}/{part}.npy", index, rows, to_stored):
            for lesion, label in task.lesions:
                row = known.loc[lesion]
                found[lesion] = Example(slice_hu(task), label, _caption(lesion, row), row["method"], true.get(lesion))
    return [found[lesion] for lesion in shown["lesion"]]


def _caption(lesion: int, row: pd.Series) -> str:
    """Number, type, size, method and why, and Dice where it's known."""
    size = f"{row['long_diameter_mm']:.0f} mm" if np.isfinite(row["long_diameter_mm"]) else "size unknown"
    reason = f" ({row['reason']})" if row["reason"] else ""
    overlap = f", Dice {row['dice']:.2f}" if np.isfinite(row.get("dice", np.nan)) else ""
    return f"{lesion} {row['type']}, {size}: {row['method']}{reason}{overlap}"
