"""Groups of lesions by size, for the tables of anchors, masks and sensitivity (`evaluate.size_edges_mm`)."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def by_size(long_diameter_mm: np.ndarray, edges_mm: Sequence[float]) -> dict[str, np.ndarray]:
    """Masks (n,) bool of the groups, smallest first: below the first edge, from edge to edge, above the last.

    Edges 10, 20, 30 give < 10, 10-20, 20-30 and > 30 mm: a lesion of 10 mm is in 10-20, one of 20 mm in 10-20 as well,
    one of 30 mm in 20-30. A single edge 10 gives < 10 and >= 10 mm. A lesion without a diameter (NaN) is in no group.
    """
    diameter = np.asarray(long_diameter_mm, dtype=np.float64)
    if not edges_mm:
        return {"all": ~np.isnan(diameter)}
    above = [diameter >= edges_mm[0], *(diameter > edge for edge in edges_mm[1:])]
    groups = {f"< {edges_mm[0]:g} mm": diameter < edges_mm[0]}
    for (low, high), (from_low, from_high) in zip(pairwise(edges_mm), pairwise(above), strict=True):
        groups[f"{low:g}-{high:g} mm"] = from_low & ~from_high
    return groups | {f"{'>' if len(above) > 1 else '>='} {edges_mm[-1]:g} mm": above[-1]}
