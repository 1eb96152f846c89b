"""How good the masks of a data set are: their table, agreement with true masks where known, examples to look at.

Only the phantom has true masks: `data/phantom/NN/true_masks_NN.zip`, one per row of the `DL_info.csv` beside it.
"""

import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from lesionpipe.core.boxes import pairwise_iou
from lesionpipe.core.errors import UserError
from lesionpipe.data.masks import MASKS_FOLDER, MaskStore
from lesionpipe.data.size_groups import by_size
from lesionpipe.data.stored.schema import BOX
from lesionpipe.data.stored.slices import SLICES_FOLDER, read_slice_index
from lesionpipe.lesions.dl_info import read_dl_info
from lesionpipe.mask_quality.contact_sheet import Example
from lesionpipe.masks.grabcut import half_covered
from lesionpipe.masks.methods import lesion_slice, read_methods_table, slice_tasks

PHANTOM_FOLDER = "data/phantom"
LARGEST_SPACING_MM = 100.0  # of px in a slice
AGREEMENT_COLUMNS = ("dice", "boundary_mm")
SAME_LESION_IOU = 0.5  # of an annotated box with that of a drawn lesion


def masks_with_lesions(parts: Sequence[str], lesions: pd.DataFrame) -> pd.DataFrame:
    """A row per mask: METHOD_COLUMNS and the lesion's; a UserError where a part's lesions aren't those of the table."""
    tables, of_parts = [], dict(iter(lesions.groupby("part")["lesion"]))
    for part in parts:
        path = Path(MASKS_FOLDER) / f"{part}.csv"
        table = read_methods_table(path)
        if differing := sorted(set(of_parts.get(part, ())) ^ set(table["lesion"])):
            where = path if differing[0] in set(table["lesion"]) else "data/lesions.csv"
            raise UserError(f"{path}: lesion {differing[0]} is in {where} alone; run `dvc repro -f masks@{part}`")
        tables.append(table)
    return pd.concat(tables, ignore_index=True).merge(lesions, on="lesion")


def true_masks_of(part: str, lesions: pd.DataFrame) -> dict[int, np.ndarray]:
    """Lesion number -> true mask bool (H, W) of the archive's slice, of the lesions of a part; empty if it has none.

    Those of a part take 150 MB, those of DeepLesion's 56 parts would take 9 GB.
    """
    archive = Path(PHANTOM_FOLDER) / part / f"true_masks_{part}.zip"
    if not archive.exists():
        return {}
    true, drawn = read_true_masks(archive), read_dl_info(archive.with_name("DL_info.csv"))
    return {lesion: true[key] for lesion, key in drawn_lesions(lesions, drawn).items() if key in true}


def read_true_masks(path: str | Path) -> dict[tuple[str, int], np.ndarray]:
    """True masks of a `true_masks_NN.zip` (`phantom.archive`): (file name, k) -> bool (H, W) of the key slice.

    A UserError where the archive is missing, isn't a zip, or holds something else.
    """
    masks, again = {}, "run `dvc repro -f phantom` to draw it again"
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                stem, k = Path(member).stem.rsplit("_lesion", 1)
                picture = cv2.imdecode(np.frombuffer(archive.read(member), np.uint8), cv2.IMREAD_GRAYSCALE)
                masks[f"{stem}.png", int(k)] = picture > 0
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; true masks exist for the phantom only") from None
    except zipfile.BadZipFile:
        raise UserError(f"{path}: not a whole zip archive; {again}") from None
    except (ValueError, TypeError, cv2.error):
        raise UserError(f"{path}: {member} is no true mask; {again}") from None
    return masks


def drawn_lesions(lesions: pd.DataFrame, drawn: pd.DataFrame) -> dict[int, tuple[str, int]]:
    """Which drawn lesion a lesion is: its number -> (file name, k), the k-th row (from 1) of its slice in `drawn`.

    That is the one whose box it shares best, so that annotations of one's own for the phantom find their masks too. The
    boxes of `drawn`, the phantom's table of `read_dl_info`, count from 1.
    """
    found, drawn_on = {}, dict(list(drawn.groupby("file_name")[["x1", "y1", "x2", "y2"]]))
    for name, own in lesions[lesions["file_name"].isin(drawn_on)].groupby("file_name"):
        overlap = pairwise_iou(own[BOX].to_numpy(float), drawn_on[name].to_numpy(float) - 1)  # (n, k)
        best = zip(own["lesion"].tolist(), overlap.max(axis=1), overlap.argmax(axis=1).tolist(), strict=True)
        found |= {lesion: (str(name), k + 1) for lesion, iou, k in best if iou >= SAME_LESION_IOU}
    return found


def agreement_with_true(table: pd.DataFrame, shown: Collection[int]) -> tuple[pd.DataFrame, dict[int, np.ndarray]]:
    """Agreement of masks with the true ones, part by part: lesion, dice, boundary_mm; and the true masks of the lesions
    `shown`. A lesion without a true mask is left out of both."""
    rows, kept = [], {}
    for part, lesions in table.groupby("part"):
        of_part, shown_there = _agreement_in_part(part, lesions, shown)
        rows += of_part
        kept |= shown_there
    return pd.DataFrame(rows, columns=["lesion", *AGREEMENT_COLUMNS]), kept


def _agreement_in_part(
    part: str, lesions: pd.DataFrame, shown: Collection[int]
) -> tuple[list[tuple[int, float, float]], dict[int, np.ndarray]]:
    """Rows and true masks of `agreement_with_true`; all other true masks of the part are let go at the end."""
    if not (true := true_masks_of(part, lesions)):
        return [], {}
    store, spacing = MaskStore.open(MASKS_FOLDER, [part]), lesions.set_index("lesion")["spacing_mm"]
    rows = [
        (lesion, *measured_agreement(mask, true[lesion], spacing[lesion]))
        for row in store.rows(part)
        for lesion, mask in zip(*store.of_slice(part, row), strict=True)
        if lesion in true
    ]
    return rows, {lesion: true[lesion] for lesion in shown if lesion in true}


def examples_of(shown: pd.DataFrame, true: dict[int, np.ndarray]) -> list[Example]:
    """The lesions of `shown` (rows of `masks_with_lesions`) as examples; a UserError where a slice is missing."""
    found, rows = {}, shown.set_index("lesion")
    for part in shown["part"].unique():
        for task in slice_tasks(f"{SLICES_FOLDER}/{part}.npy", read_slice_index([part]), shown):
            for lesion, label in task.lesions:
                hu, row = lesion_slice(task), rows.loc[lesion]
                drawn = on_stored_grid(true[lesion], len(hu)) if lesion in true else None
                found[lesion] = Example(hu, label, _caption(lesion, row), row["method"], drawn)
    if missing := [lesion for lesion in rows.index if lesion not in found]:
        raise UserError(f"{SLICES_FOLDER}: no slice of lesion {missing[0]} is there; run `dvc repro preprocess`")
    return [found[lesion] for lesion in rows.index]


def _caption(lesion: int, row: pd.Series) -> str:
    """Number, type, size, method and why, and Dice where it's known."""
    size = f"{row['long_diameter_mm']:.0f} mm" if np.isfinite(row["long_diameter_mm"]) else "size unknown"
    reason = f" ({row['reason']})" if row["reason"] else ""
    overlap = f", Dice {row['dice']:.2f}" if np.isfinite(row.get("dice", np.nan)) else ""
    return f"{lesion} {row['type']}, {size}: {row['method']}{reason}{overlap}"


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks (h, w): 2 |a ∩ b| / (|a| + |b|); 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def boundary_distance(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Mean symmetric surface distance of masks (h, w) in the unit of `spacing` (rows, columns); NaN if one is empty."""
    if not (a.any() and b.any()):
        return float("nan")
    edge_a, edge_b = boundary(a), boundary(b)
    to_a = ndimage.distance_transform_edt(~edge_a, sampling=spacing)[edge_b]
    to_b = ndimage.distance_transform_edt(~edge_b, sampling=spacing)[edge_a]
    return float(np.concatenate([to_a, to_b]).mean())


def boundary(mask: np.ndarray) -> np.ndarray:
    """The px of a mask (h, w) with a side neighbour outside it; the image's border counts as outside."""
    return mask & ~ndimage.binary_erosion(mask)


def on_stored_grid(mask: np.ndarray, side: int) -> np.ndarray:
    """A mask (H, W) of the archive's slice on the stored grid (side, side): px that are at least half covered."""
    interpolation = cv2.INTER_AREA if min(mask.shape) >= side else cv2.INTER_LINEAR
    return half_covered(cv2.resize(mask.astype(np.float32), (side, side), interpolation=interpolation))


def measured_agreement(mask: np.ndarray, true: np.ndarray, spacing_mm: float) -> tuple[float, float]:
    """Dice, and boundary distance in mm (NaN without a plausible spacing), of a mask (S, S) to the true one (H, W)."""
    (height, width), side = true.shape, len(mask)
    true = on_stored_grid(true, side)
    window = ndimage.find_objects((mask | true).astype(np.uint8))[0]  # all that is measured lies there
    steps = (spacing_mm * height / side, spacing_mm * width / side)
    known = spacing_mm <= LARGEST_SPACING_MM  # NaN isn't
    distance = boundary_distance(mask[window], true[window], steps) if known else float("nan")
    return dice(mask[window], true[window]), distance


def method_counts(table: pd.DataFrame) -> dict:
    """Lesions by method, and fallbacks by reason, commonest first, of a table with a row per mask."""
    reasons = table.loc[table["reason"] != "", "reason"]
    by = {"by_method": table["method"].value_counts(), "by_reason": reasons.value_counts()}
    return {"lesions": len(table)} | {name: counts.to_dict() for name, counts in by.items()}


def agreement_by_group(measured: pd.DataFrame, size_edges_mm: Sequence[float]) -> dict:
    """Means over all lesions and by method, size group and type, of a table with a row per lesion: method, type,
    long_diameter_mm, dice, boundary_mm."""
    sizes = by_size(measured["long_diameter_mm"], size_edges_mm)
    return {
        "all": _means(measured),
        "by_method": {str(k): _means(rows) for k, rows in measured.groupby("method")},
        "by_size": {name: _means(measured[mask]) for name, mask in sizes.items() if mask.any()},
        "by_type": {str(k): _means(rows) for k, rows in measured.groupby("type")},
    }


def _means(rows: pd.DataFrame) -> dict:
    """Number of lesions, means and the worst tenth's Dice, rounded; a mean over nothing is null."""
    means = {name: rows[name].mean() for name in AGREEMENT_COLUMNS} | {"dice_p10": rows["dice"].quantile(0.1)}
    return {"lesions": len(rows)} | {k: None if pd.isna(v) else round(float(v), 4) for k, v in means.items()}
