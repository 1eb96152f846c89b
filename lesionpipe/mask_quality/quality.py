"""How good the masks of a data set are: their table, agreement with true masks where known, examples to look at.

Only the phantom has true masks: `data/phantom/NN/true_masks_NN.zip`, one per row of the `DL_info.csv` beside it.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.boxes import pairwise_iou
from lesionpipe.core.errors import UserError
from lesionpipe.data.masks import MASKS_FOLDER, MaskStore
from lesionpipe.data.stored.schema import BOX
from lesionpipe.data.stored.slices import SLICES_FOLDER, read_slice_index
from lesionpipe.data.true_masks import read_true_masks
from lesionpipe.lesions.dl_info import read_dl_info
from lesionpipe.mask_quality.agreement import measured_agreement
from lesionpipe.mask_quality.contact_sheet import Example
from lesionpipe.masks.part import lesion_slice, read_methods_table, slice_tasks

PHANTOM_FOLDER = "data/phantom"
SAME_LESION_IOU = 0.5  # of an annotated box with that of a drawn lesion


def masks_with_lesions(parts: Sequence[str], lesions: pd.DataFrame) -> pd.DataFrame:
    """A row per mask: lesion, method, reason, area_px, and the lesion's columns of data/lesions.csv.

    Raises:
        UserError: a table's lesions aren't those of its part in data/lesions.csv.
    """
    tables = []
    for part in parts:
        path, own = f"{MASKS_FOLDER}/{part}.csv", lesions.loc[lesions["part"] == part, "lesion"]
        table = read_methods_table(path)
        if differing := sorted(set(own) ^ set(table["lesion"])):
            where = f"{path} alone" if differing[0] in set(table["lesion"]) else "data/lesions.csv alone"
            raise UserError(f"{path}: lesion {differing[0]} is in {where}; run `dvc repro -f masks@{part}`")
        tables.append(table)
    return pd.concat(tables, ignore_index=True).merge(lesions, on="lesion")


def true_masks_of(parts: Sequence[str], lesions: pd.DataFrame) -> dict[int, np.ndarray]:
    """Lesion number -> true mask bool (H, W) of the archive's slice; empty where the parts have none."""
    found = {}
    for part in parts:
        folder = Path(PHANTOM_FOLDER) / part
        archive = folder / f"true_masks_{part}.zip"
        if archive.exists():
            true, drawn = read_true_masks(archive), read_dl_info(folder / "DL_info.csv")
            keys = drawn_lesions(lesions[lesions["part"] == part], drawn)
            found |= {lesion: true[key] for lesion, key in keys.items() if key in true}
    return found


def drawn_lesions(lesions: pd.DataFrame, drawn: pd.DataFrame) -> dict[int, tuple[str, int]]:
    """Which drawn lesion a lesion is: its number -> (file name, k), the k-th row (from 1) of its slice in `drawn`.

    That is the one whose box it shares best, so that annotations of one's own for the phantom find their masks too.

    Args:
        lesions: rows of `data/lesions.csv`.
        drawn: the phantom's table, of `read_dl_info` (its boxes count from 1).
    """
    found, rows_of_slice = {}, drawn.groupby("file_name").indices
    drawn_boxes = drawn[["x1", "y1", "x2", "y2"]].to_numpy(float) - 1
    for name, own in lesions.groupby("file_name"):
        if name in rows_of_slice:
            overlap = pairwise_iou(own[BOX].to_numpy(float), drawn_boxes[rows_of_slice[name]])  # (n, k)
            for lesion, row in zip(own["lesion"].tolist(), overlap, strict=True):
                if row.max() >= SAME_LESION_IOU:
                    found[lesion] = (str(name), int(row.argmax()) + 1)
    return found


def agreement_with_true(parts: Sequence[str], table: pd.DataFrame, true: dict[int, np.ndarray]) -> pd.DataFrame:
    """Agreement of masks with the true ones: lesion, dice, boundary_mm; a lesion without a true mask is left out."""
    store, spacing = MaskStore.open(MASKS_FOLDER, parts), table.set_index("lesion")["spacing_mm"]
    rows = []
    for part in parts:
        for row in store.rows(part):
            for lesion, mask in zip(*store.of_slice(part, row), strict=True):
                if int(lesion) in true:
                    rows.append((int(lesion), *measured_agreement(mask, true[int(lesion)], spacing[lesion])))
    return pd.DataFrame(rows, columns=["lesion", "dice", "boundary_mm"])


def examples_of(shown: pd.DataFrame, true: dict[int, np.ndarray]) -> list[Example]:
    """The lesions of `shown` (rows of `masks_with_lesions`) as examples of the contact sheet, in its order.

    Raises:
        UserError: the slice of a lesion isn't there.
    """
    found = {}
    for part, rows in shown.groupby("part"):
        known = rows.set_index("lesion")
        for task in slice_tasks(f"{SLICES_FOLDER}/{part}.npy", read_slice_index([part]), rows):
            for lesion, label in task.lesions:
                row, hu = known.loc[lesion], lesion_slice(task)
                found[lesion] = Example(hu, label, _caption(lesion, row), row["method"], true.get(lesion))
    if missing := [lesion for lesion in shown["lesion"] if lesion not in found]:
        raise UserError(f"{SLICES_FOLDER}: no slice of lesion {missing[0]} is there; run `dvc repro preprocess`")
    return [found[lesion] for lesion in shown["lesion"]]


def _caption(lesion: int, row: pd.Series) -> str:
    """Number, type, size, method and why, and Dice where it's known."""
    size = f"{row['long_diameter_mm']:.0f} mm" if np.isfinite(row["long_diameter_mm"]) else "size unknown"
    reason = f" ({row['reason']})" if row["reason"] else ""
    overlap = f", Dice {row['dice']:.2f}" if np.isfinite(row.get("dice", np.nan)) else ""
    return f"{lesion} {row['type']}, {size}: {row['method']}{reason}{overlap}"
