"""From px of the archive's slice to px of the stored slice and back, and from HU to the network's range."""

import numpy as np
from array_api_compat import array_namespace


def to_stored(points, scale_x, scale_y) -> np.ndarray:
    """Points or boxes from px of the archive's slice to px of the stored slice: x' = (x + 0.5) · scale - 0.5.

    Args:
        points: (…, 2m), last axis x, y, x, y, …; pixel-centre convention (the centre of the first pixel is 0).
        scale_x: stored side / archive width: a number, or an array that goes with the leading axes of `points`.
        scale_y: the same for the height.

    Returns:
        float64, the shape of `points`.
    """
    points, scale = _with_scale(points, scale_x, scale_y)
    return (points + 0.5) * scale - 0.5


def to_original(points, scale_x, scale_y) -> np.ndarray:
    """The inverse of `to_stored`: from px of the stored slice to px of the archive's slice."""
    points, scale = _with_scale(points, scale_x, scale_y)
    return (points + 0.5) / scale - 0.5


def _with_scale(points, scale_x, scale_y) -> tuple[np.ndarray, np.ndarray]:
    """The points as float64 and, for each of their last axis, its scale."""
    points = np.asarray(points, dtype=np.float64)
    pair = np.stack(np.broadcast_arrays(np.float64(scale_x), np.float64(scale_y)), axis=-1)  # (…, 2)
    return points, np.tile(pair, points.shape[-1] // 2)


def normalise(hu_values, hu_range: tuple[int, int]):
    """HU within `hu_range` to float32 in [-1, 1]; an array or a tensor of any shape and type (paper, sec. 3.1)."""
    xp = array_namespace(hu_values)
    low, high = hu_range
    return (xp.astype(hu_values, xp.float32) - low) * (2.0 / (high - low)) - 1.0
