"""Groups of lesions by size, which anchors, masks and sensitivity are told for."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

SIZE_EDGES_MM = (10, 30)  # long diameter (paper, Fig. 2)


def by_size(long_diameter_mm: np.ndarray, edges_mm: Sequence[float] = SIZE_EDGES_MM) -> dict[str, np.ndarray]:
    """Masks (n,) bool of the groups, smallest first: below the first edge, from edge to edge, above the last.

    The groups between two edges hold both (of neighbours, the lower one holds the edge they share); of a single edge
    the upper group holds it. A lesion without a diameter (NaN) is in no group.
    """
    diameter = np.asarray(long_diameter_mm, dtype=np.float64)
    if not edges_mm:
        return {"all": ~np.isnan(diameter)}
    first, last = edges_mm[0], edges_mm[-1]
    groups = {f"< {first:g} mm": diameter < first}
    for low, high in pairwise(edges_mm):
        above = diameter >= low if low == first else diameter > low
        groups[f"{low:g}-{high:g} mm"] = above & (diameter <= high)
    if len(edges_mm) == 1:
        return groups | {f">= {first:g} mm": diameter >= first}
    return groups | {f"> {last:g} mm": diameter > last}
