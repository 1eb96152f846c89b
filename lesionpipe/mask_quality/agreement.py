"""How near a mask comes to another: Dice and boundary distance; true masks brought to the stored grid."""

import cv2
import numpy as np
from scipy import ndimage

LARGEST_SPACING_MM = 100.0  # of px in a slice


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice overlap of two masks (h, w): 2 |a ∩ b| / (|a| + |b|); 1 where both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def boundary_distance(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float] = (1.0, 1.0)) -> float:
    """Mean symmetric surface distance: from every boundary px of each mask to the nearest of the other, all averaged.

    Args:
        a, b: bool (h, w), neither empty.
        spacing: distance of rows and of columns, in the unit of the result (mm).

    Raises:
        ValueError: a mask is empty.
    """
    if not (a.any() and b.any()):
        raise ValueError("the boundary distance of an empty mask isn't defined")
    edge_a, edge_b = boundary(a), boundary(b)
    to_a = ndimage.distance_transform_edt(~edge_a, sampling=spacing)[edge_b]
    to_b = ndimage.distance_transform_edt(~edge_b, sampling=spacing)[edge_a]
    return float(np.concatenate([to_a, to_b]).mean())


def boundary(mask: np.ndarray) -> np.ndarray:
    """The px of a mask (h, w) with a side neighbour outside it; the image's border counts as outside."""
    return mask & ~ndimage.binary_erosion(mask)


def on_stored_grid(mask: np.ndarray, side: int) -> np.ndarray:
    """A mask (H, W) of the archive's slice on the stored grid (side, side): px that are at least half covered.

    A lesion too small for that keeps its most covered px, so that a mask never vanishes.
    """
    if mask.shape == (side, side) or not mask.any():
        return mask if mask.shape == (side, side) else np.zeros((side, side), bool)
    interpolation = cv2.INTER_AREA if min(mask.shape) >= side else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (side, side), interpolation=interpolation)
    return cover >= min(0.5, cover.max())


def measured_agreement(mask: np.ndarray, true: np.ndarray, spacing_mm: float) -> tuple[float, float]:
    """Dice and boundary distance in mm of a mask (S, S) to the true mask (H, W) of the archive's slice.

    Both are compared on the stored grid, to which the true mask is brought first. `spacing_mm` is that of the archive's
    slice; the distance is NaN where it isn't known (NaN, or above any scan's).
    """
    (height, width), side = true.shape, len(mask)
    true = on_stored_grid(true, side)
    window = extent_of([mask, true])
    steps = (spacing_mm * height / side, spacing_mm * width / side)
    known = spacing_mm <= LARGEST_SPACING_MM  # NaN isn't
    distance = boundary_distance(mask[window], true[window], steps) if known else float("nan")
    return dice(mask[window], true[window]), distance


def extent_of(masks: list[np.ndarray], padding_px: int = 2) -> tuple[slice, slice]:
    """Rows and columns that hold all of the masks (h, w) and a padding; distances measured there are the same."""
    union = np.any(masks, axis=0)
    rows, columns = np.flatnonzero(union.any(axis=1)), np.flatnonzero(union.any(axis=0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return tuple(slice(max(at[0] - padding_px, 0), at[-1] + padding_px + 1) for at in (rows, columns))
