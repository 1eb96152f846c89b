"""metrics/masks.json: how many masks by method and reason, and how well they agree with true masks, where known."""

from collections.abc import Sequence

import pandas as pd

from lesionpipe.data.size_groups import by_size

AGREEMENT_COLUMNS = ("dice", "boundary_mm")


def method_counts(table: pd.DataFrame) -> dict:
    """Lesions by method, and fallbacks by reason, commonest first.

    Args:
        table: a row per mask with method and reason ("" where the chosen method made it).
    """
    reasons = table.loc[table["reason"] != "", "reason"]
    return {
        "lesions": len(table),
        "by_method": {name: int(n) for name, n in table["method"].value_counts().items()},
        "by_reason": {name: int(n) for name, n in reasons.value_counts().items()},
    }


def agreement_by_group(measured: pd.DataFrame, size_edges_mm: Sequence[float]) -> dict:
    """Means over all lesions and by method, size group (long diameter) and type.

    Args:
        measured: one row per lesion with method, type, long_diameter_mm, dice, boundary_mm.
        size_edges_mm: `evaluate.size_edges_mm`.
    """
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
