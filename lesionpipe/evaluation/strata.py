"""Groups of lesions that are scored apart: by size (paper, Fig. 2), coarse type and slice interval.

The published way: the lesions of the group against **all** detections on **all** evaluated images. A detection of a
lesion of another group is therefore a false positive here, and the curves of the groups don't average to the whole one.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from lesionpipe.deeplesion.lesion_table import TYPES

INTERVAL_EDGE_MM = 2.5  # thin and thick slices
UNKNOWN = "unknown"


def by_size(lesions: pd.DataFrame, edges_mm: Sequence[float]) -> dict[str, np.ndarray]:
    """Groups of the long diameter, masks (lesions,) bool: below the first edge, from edge to edge, above the last.

    The middle ones hold their edges. Lesions without a diameter are `unknown`, listed where there are any.
    """
    diameter = lesions["long_diameter_mm"].to_numpy(dtype=np.float64)
    if not edges_mm:
        return _with_unknown({"all": ~np.isnan(diameter)}, len(diameter))
    groups = {f"< {edges_mm[0]:g} mm": diameter < edges_mm[0]}
    for i, (low, high) in enumerate(pairwise(edges_mm)):
        above = diameter >= low if i == 0 else diameter > low
        groups[f"{low:g}-{high:g} mm"] = above & (diameter <= high)
    if len(edges_mm) == 1:
        groups[f">= {edges_mm[0]:g} mm"] = diameter >= edges_mm[0]
    else:
        groups[f"> {edges_mm[-1]:g} mm"] = diameter > edges_mm[-1]
    return _with_unknown(groups, len(diameter))


def by_type(lesions: pd.DataFrame) -> dict[str, np.ndarray]:
    """One group per coarse type, in DeepLesion's order; unlabelled lesions (all of train) are `unknown`."""
    kind = lesions["type"].to_numpy()
    return _with_unknown({name: kind == name for name in TYPES}, len(kind))


def by_interval(lesions: pd.DataFrame) -> dict[str, np.ndarray]:
    """Thin and thick slices by the slice interval; lesions without one are `unknown`."""
    interval = lesions["slice_interval_mm"].to_numpy(dtype=np.float64)
    thin, thick = interval < INTERVAL_EDGE_MM, interval >= INTERVAL_EDGE_MM
    return _with_unknown({f"< {INTERVAL_EDGE_MM:g} mm": thin, f">= {INTERVAL_EDGE_MM:g} mm": thick}, len(interval))


def _with_unknown(groups: dict[str, np.ndarray], lesions: int) -> dict[str, np.ndarray]:
    rest = ~np.logical_or.reduce([np.zeros(lesions, dtype=bool), *groups.values()])
    return {**groups, UNKNOWN: rest} if rest.any() else groups
