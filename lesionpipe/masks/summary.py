"""What the masks of a data set come to: how many by method and reason, and how near to true masks, if known."""

import numpy as np
import pandas as pd

from lesionpipe.data.size_groups import by_size
from lesionpipe.masks.agreement import around, boundary_distance, dice, stored_mask

MEASURES = ("dice", "boundary_mm")


def counts(table: pd.DataFrame) -> dict:
    """Lesions by method, and stand-ins by reason, from the masks' table (method, reason), commonest first."""
    reasons = table.loc[table["reason"] != "", "reason"]
    return {
        "lesions": len(table),
        "by_method": {name: int(n) for name, n in table["method"].value_counts().items()},
        "by_reason": {name: int(n) for name, n in reasons.value_counts().items()},
    }


def measure(mask: np.ndarray, true: np.ndarray, spacing_mm: float) -> tuple[float, float]:
    """Dice and boundary distance in mm of a mask (S, S) to the true mask (H, W) of the archive's slice.

    Both are compared on the stored grid, to which the true mask is brought first. `spacing_mm` is that of the archive's
    slice (NaN where unknown, then so is the distance).
    """
    height, width = true.shape
    side = len(mask)
    true = stored_mask(true, side)
    window = around([mask, true])
    steps = (spacing_mm * height / side, spacing_mm * width / side)
    distance = boundary_distance(mask[window], true[window], steps) if np.isfinite(spacing_mm) else float("nan")
    return dice(mask[window], true[window]), distance


def agreement(measured: pd.DataFrame) -> dict:
    """Means over all lesions and by method, size group (long diameter) and type.

    Args:
        measured: one row per lesion with method, type, long_diameter_mm, dice, boundary_mm.
    """
    sizes = by_size(measured["long_diameter_mm"])
    return {
        "all": _means(measured),
        "by_method": {str(k): _means(rows) for k, rows in measured.groupby("method")},
        "by_size": {name: _means(measured[mask]) for name, mask in sizes.items() if mask.any()},
        "by_type": {str(k): _means(rows) for k, rows in measured.groupby("type")},
    }


def _means(rows: pd.DataFrame) -> dict:
    """Number of lesions, means and the worst tenth's Dice, rounded; a mean over nothing is null."""
    means = {name: rows[name].mean() for name in MEASURES} | {"dice_p10": rows["dice"].quantile(0.1)}
    return {"lesions": len(rows)} | {k: None if pd.isna(v) else round(float(v), 4) for k, v in means.items()}
