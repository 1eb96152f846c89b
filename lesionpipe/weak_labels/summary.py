"""What the masks of a data set come to: how many by method and reason, and how near to true masks, if known."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lesionpipe.weak_labels.quality import around, boundary_distance, dice, stored_mask

SIZE_EDGES_MM = (10, 30)  # long diameter (paper, Fig. 2)
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


def agreement(measured: pd.DataFrame, edges_mm: Sequence[float]) -> dict:
    """Means over all lesions and by method, size group (long diameter) and type.

    Args:
        measured: one row per lesion with method, type, long_diameter_mm, dice, boundary_mm.
        edges_mm: rising edges between the size groups.
    """
    groups = {"method": measured["method"], "size": size_groups(measured["long_diameter_mm"], edges_mm)}
    groups["type"] = measured["type"]
    result = {"all": _means(measured)}
    for name, key in groups.items():
        result[f"by_{name}"] = {str(k): _means(rows) for k, rows in measured.groupby(key, observed=True)}
    return result


def size_groups(diameter_mm: pd.Series, edges_mm: Sequence[float]) -> pd.Series:
    """The size group of each lesion, in rising order: `< 10 mm`, `10-30 mm`, `> 30 mm`; none where it's unknown."""
    edges = [f"{edge:g}" for edge in edges_mm]
    middle = [f"{low}-{high} mm" for low, high in itertools.pairwise(edges)]
    if not edges:
        return pd.cut(diameter_mm, [-np.inf, np.inf], labels=["all sizes"])
    last = f"> {edges[-1]} mm" if middle else f">= {edges[-1]} mm"
    below = np.nextafter(edges_mm[0], -np.inf)  # the groups between hold their edges
    return pd.cut(diameter_mm, [-np.inf, below, *edges_mm[1:], np.inf], labels=[f"< {edges[0]} mm", *middle, last])


def _means(rows: pd.DataFrame) -> dict:
    """Number of lesions, means and the worst tenth's Dice, rounded; a mean over nothing is null."""
    means = {name: rows[name].mean() for name in MEASURES} | {"dice_p10": rows["dice"].quantile(0.1)}
    return {"lesions": len(rows)} | {k: None if pd.isna(v) else round(float(v), 4) for k, v in means.items()}
