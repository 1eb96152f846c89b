"""The lesion slice and its neighbours at ±2 mm, …: from the archive's slices to one int16 array (paper, sec. 3.1).

The order of work, for every position `k · spacing_mm` (k = -1, 0, 1 for three slices) above or below the lesion slice:

1. Position 0 is the lesion slice itself. A position that falls on an existing slice is that slice ("exact"). Between
   two slices it is their linear interpolation in HU by the slice interval ("interpolated").
2. Where a slice that the position needs does not exist, the lesion slice is used instead ("duplicated", as in the
   paper). Both slices around the position are needed: nothing is extrapolated, and a gap is not bridged. An unknown
   interval (missing, not finite, or not above 0) says nothing about positions: all are duplicated ("unknown interval").
3. The HU are clipped to the given range, then resized to `size` × `size` (area averages when shrinking, bilinear when
   enlarging, nothing when equal), then rounded to int16. Clipping first keeps metal and padding from bleeding.

The geometry of the resize is that of `data.stored.geometry.to_stored` and `to_original`, which convert points and boxes
between the two grids.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

ON_SLICE = 1e-6  # slice intervals: a position this near to a slice lies on it
MOST_STEPS = 1e6  # slice intervals that a stack may span; an interval that thin, or an endless one, is unknown
NEIGHBOUR_KINDS = ("unknown interval", "duplicated", "interpolated", "exact")  # from the worst to the best


@dataclass(frozen=True)
class StackSettings:
    """The section `preprocess` as values: side in px, slices per stack (odd), their distance, lowest and highest HU."""

    image_size: int
    slices: int
    spacing_mm: float
    hu: tuple[int, int]


class Plan(NamedTuple):
    """Which slices make a stack: position i is (1 - weight[i]) · slice below[i] + weight[i] · slice above[i]."""

    below: tuple[int, ...]
    above: tuple[int, ...]
    weight: tuple[float, ...]
    neighbours: str  # the worst of its positions' NEIGHBOUR_KINDS

    @property
    def needed(self) -> tuple[int, ...]:
        """The numbers of the slices to read, rising."""
        return tuple(sorted(set(self.below) | set(self.above)))


def plan_stack(
    key_slice: int, interval_mm: float | None, exists: Callable[[int], bool], slices: int, spacing_mm: float
) -> Plan:
    """Which existing slices give `slices` positions `spacing_mm` apart around `key_slice`, and with which weights.

    Args:
        interval_mm: distance between consecutive slice numbers; None, NaN or a value not above 0 counts as unknown.
        exists: whether a slice number of this series exists.
    """
    known = interval_mm is not None and interval_mm > 0 and 0 < slices * spacing_mm / interval_mm < MOST_STEPS
    found = []
    for k in range(-(slices // 2), slices // 2 + 1):
        if known and k:
            found.append(_around(k * spacing_mm / interval_mm, lambda step: exists(key_slice + step)))
        else:
            found.append((0, 0, 0.0, "unknown interval" if k else "exact"))
    low, high, weight, kinds = zip(*found, strict=True)
    below, above = (tuple(key_slice + step for step in steps) for steps in (low, high))
    return Plan(below, above, weight, min(kinds, key=NEIGHBOUR_KINDS.index))


def _around(position: float, exists: Callable[[int], bool]) -> tuple[int, int, float, str]:
    """The slices around a position, the weight of the upper one, and how; all counted from the lesion slice."""
    nearest = round(position)
    if abs(position - nearest) < ON_SLICE:
        low, high, weight, kind = nearest, nearest, 0.0, "exact"
    else:
        low, high, kind = math.floor(position), math.floor(position) + 1, "interpolated"
        weight = position - low
    if all(exists(step) for step in {low, high} - {0}):
        return low, high, weight, kind
    return 0, 0, 0.0, "duplicated"


def build_stack(plan: Plan, images: Mapping[int, np.ndarray], size: int, hu: tuple[int, int]) -> np.ndarray:
    """Interpolate, clip and resize.

    Args:
        plan: of `plan_stack`.
        images: slice number -> int16 HU (H, W), at least those of `plan.needed`, all of one shape.
        size: side of the stored slice, px.
        hu: lowest and highest HU kept.

    Returns:
        int16 HU (slices, size, size).
    """
    stack = np.empty((len(plan.weight), size, size), np.int16)
    positions = list(zip(plan.below, plan.above, plan.weight, strict=True))
    for i, (below, above, weight) in enumerate(positions):
        first = positions.index(positions[i])
        if first < i:
            stack[i] = stack[first]
        else:
            stack[i] = _resized(_mixed(images[below], images[above], weight, size).clip(*hu), size)
    return stack


def _mixed(below: np.ndarray, above: np.ndarray, weight: float, size: int) -> np.ndarray:
    """(1 - weight) · below + weight · above (H, W): int16, or float32 where interpolated and still to be resized."""
    if not weight:
        return below
    depth = cv2.CV_16S if below.shape == (size, size) else cv2.CV_32F
    return cv2.addWeighted(below, 1 - weight, above, weight, 0, dtype=depth)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """Whole numbers (size, size) of an int16 or float32 image (H, W)."""
    if image.shape == (size, size):
        return image
    how = cv2.INTER_AREA if min(image.shape) >= size else cv2.INTER_LINEAR
    return np.rint(cv2.resize(image.astype(np.float32, copy=False), (size, size), interpolation=how))
