"""Groups of lesions that are scored apart: by size (paper, Fig. 2), coarse type and slice interval.

The published way: the lesions of the group against **all** detections on **all** evaluated images. A detection of a
lesion of another group is therefore a false positive here, and the curves of the groups don't average to the whole one.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from lesionpipe.data.size_groups import by_size
from lesionpipe.data.stored.schema import TYPES

INTERVAL_EDGE_MM = 2.5  # thin and thick slices
UNKNOWN = "unknown"


def size_strata(lesions: pd.DataFrame, edges_mm: Sequence[float]) -> dict[str, np.ndarray]:
    """Groups of the long diameter, see `lesionpipe.data.size_groups`; lesions without one are `unknown`."""
    return _with_unknown(by_size(lesions["long_diameter_mm"], edges_mm), len(lesions))


def type_strata(lesions: pd.DataFrame) -> dict[str, np.ndarray]:
    """One group per coarse type, in DeepLesion's order; unlabelled lesions (all of train) are `unknown`."""
    kind = lesions["type"].to_numpy()
    return _with_unknown({name: kind == name for name in TYPES}, len(kind))


def interval_strata(lesions: pd.DataFrame) -> dict[str, np.ndarray]:
    """Thin and thick slices by the slice interval; lesions without one are `unknown`."""
    interval = lesions["slice_interval_mm"].to_numpy(dtype=np.float64)
    thin, thick = interval < INTERVAL_EDGE_MM, interval >= INTERVAL_EDGE_MM
    return _with_unknown({f"< {INTERVAL_EDGE_MM:g} mm": thin, f">= {INTERVAL_EDGE_MM:g} mm": thick}, len(interval))


def _with_unknown(known: dict[str, np.ndarray], lesions: int) -> dict[str, np.ndarray]:
    rest = ~np.logical_or.reduce([np.zeros(lesions, dtype=bool), *known.values()])
    return {**known, UNKNOWN: rest} if rest.any() else known
