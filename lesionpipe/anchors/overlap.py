"""How well anchors cover boxes: the IoU of each box with its best anchor, exactly, without listing all anchors.

Two placements of an anchor (paper, sec. 2.1, doesn't say which; its code takes the first):

- concentric: anchor and box share their centre. The best that any placement can give.
- grid: anchors lie where the network puts them (`grid.anchors_for`). The IoU of a box with an anchor of given sides
  falls with the distance of their centres along x and along y, so on each level the cell nearest along both is best:
  levels x anchors per cell IoUs a box instead of hundreds of thousands. Only centres inside the image count.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from lesionpipe.anchors.grid import HALF_PIXEL, AnchorSet, cell_sides

# Areas of which one is less than half the other can't have an IoU of 0.5. A first pass compares boxes only with anchors
# of comparable area; only boxes that it leaves below this IoU are then compared with all anchors. A few boxes are
# compared with all anchors at once, which is faster than to sort out what is comparable.
FIRST_PASS_IOU = 0.5
FEW_BOXES = 1000
UNREACHABLE_PX = 1e9  # further than any anchor reaches
SMALLEST_IOU = 1e-6  # below it, the focal objective sees no difference from none
IOU_DIGITS = 6


class BestOverlap:
    """Boxes prepared for comparison with many anchor sets of the same strides.

    Args:
        boxes: (n, 4) xyxy px, counted from the centre of the first pixel.
        strides: px, one per level; None: concentric.
        image_sizes: (n, 2) width, height in px of each box's image, or one pair for all; unused when concentric.
        pixel: 0, or 1 for the convention width = x2 - x1 + 1.
    """

    def __init__(self, boxes: np.ndarray, strides: Sequence[int] | None, image_sizes=(512, 512), pixel: float = 0):
        boxes = np.asarray(boxes, float).reshape(-1, 4)
        images = np.broadcast_to(np.asarray(image_sizes, float), (len(boxes), 2))
        centres = (boxes[:, 2:] + boxes[:, :2]) / 2 + HALF_PIXEL
        sides = boxes[:, 2:] - boxes[:, :2] + pixel
        area = sides.prod(axis=1)
        self._order = order = np.argsort(area, kind="stable")
        self._pixel = np.float32(pixel)
        self._area = area[order].astype(np.float32)
        self._sides = np.ascontiguousarray(sides[order].T, np.float32)  # (2, n)
        away = [np.zeros_like(sides)] if strides is None else [centre_distance(centres, images, s) for s in strides]
        # Half the box less the distance of the centres. With half the anchor added it is what both share along an axis,
        # unless one ends within the other there.
        self._reach = np.stack([(sides / 2 - a)[order].T for a in away]).astype(np.float32)  # (levels or 1, 2, n)

    def of(self, anchor_set: AnchorSet) -> np.ndarray:
        """Best IoU of each box with an anchor of the set: float32 (n,), in the order of the boxes given."""
        best = np.empty_like(self._area)
        best[self._order] = self.by_area(anchor_set)
        return best

    def by_area(self, anchor_set: AnchorSet) -> np.ndarray:
        """The same, smallest box first."""
        sizes, scales, ratios = anchor_set.sizes, anchor_set.scales, anchor_set.ratios
        sides = np.multiply.outer(sizes, cell_sides(1, scales, ratios)).astype(np.float32) + self._pixel
        if len(self._area) <= FEW_BOXES:
            return self._best_of_all(slice(None), sides)
        sides = sides.reshape(len(sizes), len(scales), len(ratios), 2)
        areas = sides.prod(axis=-1)  # (levels, scales, ratios)
        first = self._area.searchsorted(areas.min(axis=-1) * FIRST_PASS_IOU)  # (levels, scales)
        last = self._area.searchsorted(areas.max(axis=-1) / FIRST_PASS_IOU)
        best = np.zeros_like(self._area)
        for level, scale in np.ndindex(first.shape):
            rows = slice(first[level, scale], last[level, scale])
            reach = self._reach[level % len(self._reach)][:, rows]  # (2, rows)
            best[rows] = np.maximum(best[rows], self._best_iou(rows, reach, sides[level, scale]))
        rest = np.flatnonzero(best < FIRST_PASS_IOU)
        best[rest] = np.maximum(best[rest], self._best_of_all(rest, sides.reshape(len(sizes), -1, 2)))
        return best

    def _best_of_all(self, rows: slice | np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Best IoU (rows,) of some boxes with all anchors, of sides (levels, m, 2); 0 where they meet none."""
        reach = self._reach[:, :, rows].swapaxes(0, 1)[:, :, None]  # (2, levels or 1, 1, rows)
        return self._best_iou(rows, reach, sides).max(axis=0, initial=0)

    def _best_iou(self, rows: slice | np.ndarray, reach: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Best IoU (…, rows) of some boxes with anchors of sides (…, m, 2), given their reach (2, …, rows)."""
        width, height = sides[..., 0, None], sides[..., 1, None]  # (…, m, 1)
        shared = _shared_length(reach[0], self._sides[0, rows], width)  # (…, m, rows)
        np.maximum(shared, 0, out=shared)  # one factor suffices: the product is then at most 0 where they don't overlap
        shared *= _shared_length(reach[1], self._sides[1, rows], height)
        union = self._area[rows] + width * height
        union -= shared
        shared /= union
        return shared.max(axis=-2)


def _shared_length(reach: np.ndarray, box: np.ndarray, anchor: np.ndarray) -> np.ndarray:
    """What boxes (…, n) and anchors (…, m, 1) share along one axis: (…, m, n), negative where they don't overlap."""
    shared = reach + anchor / 2
    np.minimum(shared, box, out=shared)
    np.minimum(shared, anchor, out=shared)
    return shared


def centre_distance(centres: np.ndarray, images: np.ndarray, stride: int) -> np.ndarray:
    """Distance (n, 2) in px along x, y from each centre to the nearest cell in its image; or `UNREACHABLE_PX`."""
    cells = np.ceil(images / stride - 0.5)  # pixel i covers [i, i + 1): centres (i + 0.5) stride < side
    nearest = np.clip(np.floor(centres / stride), 0, cells - 1)
    return np.where(cells > 0, np.abs(centres - (nearest + 0.5) * stride), UNREACHABLE_PX)


def anchor_loss(best: np.ndarray, objective: Literal["iou", "focal"]) -> float:
    """What the search minimises over best IoUs (n,): ``iou``: 1 - mean; ``focal``: mean of -(1 - IoU)^2 ln IoU."""
    best = best.astype(np.float64)
    if objective == "iou":
        return 1 - float(best.mean())
    best = np.clip(best, SMALLEST_IOU, 1)
    return float(np.mean(-((1 - best) ** 2) * np.log(best)))


@dataclasses.dataclass(frozen=True)
class SplitBoxes:
    """The lesions of a split: boxes (n, 4) px of the slice the anchors lie on, its width and height in px (one pair, or
    (n, 2)), and masks (n,) bool of named groups."""

    boxes: np.ndarray
    image_sizes: tuple[float, float] | np.ndarray
    groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def with_all(self) -> dict[str, np.ndarray]:
        """The groups, and first that of all lesions."""
        return {"all": np.ones(len(self.boxes), bool)} | self.groups


def compare_anchor_sets(sets: dict[str, AnchorSet], splits: dict[str, SplitBoxes]) -> dict:
    """The number of lesions of every split and group, and for every set `coverage` of each split with lesions."""
    table: dict[str, dict] = {"lesions": {}}
    for split, held in splits.items():
        table["lesions"][split] = {name: int(mask.sum()) for name, mask in held.with_all().items()}
    for name, anchor_set in sets.items():
        table[name] = {split: coverage(anchor_set, held) for split, held in splits.items() if len(held.boxes)}
    return table


def coverage(anchor_set: AnchorSet, lesions: SplitBoxes) -> dict[str, dict[str, float]]:
    """For every group with lesions: mean best IoU on the grid and concentric, and the shares of lesions whose best
    anchor on the grid is under 0.5 (it trains nothing) and under 0.4 (it counts as background)."""
    grid = BestOverlap(lesions.boxes, anchor_set.strides, lesions.image_sizes).of(anchor_set)
    concentric = BestOverlap(lesions.boxes, None).of(anchor_set)
    table = {}
    for name, mask in lesions.with_all().items():
        if mask.any():
            values = {
                "mean_iou_grid": grid[mask].mean(dtype=float),
                "mean_iou_concentric": concentric[mask].mean(dtype=float),
                "below_0.5_grid": np.mean(grid[mask] < 0.5),
                "below_0.4_grid": np.mean(grid[mask] < 0.4),
            }
            table[name] = {key: round(float(value), IOU_DIGITS) for key, value in values.items()}
    return table
