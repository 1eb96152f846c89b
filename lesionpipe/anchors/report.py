"""The figures of anchor sets: best IoUs on each split by group of lesions, and what fewer anchors per cell would cost.

metrics/anchors.json and metrics/anchors_count.csv hold them.
"""

import dataclasses
import functools
from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.anchors.overlap import BestOverlap
from lesionpipe.anchors.search import SearchSettings, SearchSpace, search_anchors
from lesionpipe.core.parallel import parallel_map

SCALE_COUNTS = (1, 2, 3, 4, 5)
RATIO_PAIR_COUNTS = (0, 1, 2)
IOU_DIGITS = 6


@dataclasses.dataclass(frozen=True)
class SplitBoxes:
    """The lesions of a split: boxes (n, 4) px of the slice the anchors lie on, its width and height in px (one pair, or
    (n, 2)), and masks (n,) bool of named groups."""

    boxes: np.ndarray
    image_sizes: tuple[float, float] | np.ndarray
    groups: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


def compare_anchor_sets(sets: dict[str, AnchorSet], splits: dict[str, SplitBoxes]) -> dict:
    """For every set, split and group with lesions: mean best IoU concentric and on the grid, and the shares of lesions
    whose best anchor on the grid is under 0.5 (it trains nothing) and under 0.4 (it counts as background)."""
    table: dict = {"lesions": {split: _counts(lesions) for split, lesions in splits.items()}}
    for name, anchor_set in sets.items():
        table[name] = {split: _groups(anchor_set, lesions) for split, lesions in splits.items() if len(lesions.boxes)}
    return table


def _counts(lesions: SplitBoxes) -> dict[str, int]:
    return {"all": len(lesions.boxes)} | {name: int(mask.sum()) for name, mask in lesions.groups.items()}


def _groups(anchor_set: AnchorSet, lesions: SplitBoxes) -> dict[str, dict[str, float]]:
    grid = BestOverlap(lesions.boxes, anchor_set.strides, lesions.image_sizes).of(anchor_set)
    concentric = BestOverlap(lesions.boxes, None).of(anchor_set)
    groups = {"all": np.ones(len(grid), bool)} | lesions.groups
    return {name: iou_statistics(grid[mask], concentric[mask]) for name, mask in groups.items() if mask.any()}


def iou_statistics(grid: np.ndarray, concentric: np.ndarray) -> dict[str, float]:
    """Means of the best IoUs (n,) on the grid and concentric, and the shares below 0.5 and 0.4; n at least 1."""
    values = {
        "mean_iou_grid": grid.mean(dtype=float),
        "mean_iou_concentric": concentric.mean(dtype=float),
        "below_0.5_grid": np.mean(grid < 0.5),
        "below_0.4_grid": np.mean(grid < 0.4),
    }
    return {name: round(float(value), IOU_DIGITS) for name, value in values.items()}


def search_by_count(
    space: SearchSpace,
    lesions: SplitBoxes,
    overlap: BestOverlap,
    objective: Literal["iou", "focal"],
    settings: SearchSettings,
    workers: int = 1,
) -> pd.DataFrame:
    """A search for each number of scales (1 to 5) and ratio pairs (0 to 2): overlap against the anchors per cell.

    Every scale and every pair has the widest of the space's bounds. Sorted by anchors per cell, then scales.
    """
    spaces = list(_smaller_spaces(space))
    alone = dataclasses.replace(settings, workers=1)
    job = functools.partial(search_anchors, overlap=overlap, objective=objective, settings=alone)
    results = parallel_map(job, spaces, "anchors by count", workers)
    rows = [_count_row(smaller, lesions, result.anchors) for smaller, result in zip(spaces, results, strict=True)]
    return pd.DataFrame(rows).sort_values(["anchors_per_cell", "scales"], ignore_index=True)


def _smaller_spaces(space: SearchSpace) -> Iterable[SearchSpace]:
    scale, ratio = _widest(space.scale_bounds), _widest(space.ratio_bounds or ((1.0, 4.0),))
    for scales in SCALE_COUNTS:
        for pairs in RATIO_PAIR_COUNTS:
            yield dataclasses.replace(space, scale_bounds=(scale,) * scales, ratio_bounds=(ratio,) * pairs)


def _widest(bounds: tuple[tuple[float, float], ...]) -> tuple[float, float]:
    return min(low for low, _ in bounds), max(high for _, high in bounds)


def _count_row(space: SearchSpace, lesions: SplitBoxes, anchors: AnchorSet) -> dict:
    return {
        "anchors_per_cell": anchors.per_cell,
        "scales": len(space.scale_bounds),
        "ratios": len(anchors.ratios),
        **_groups(anchors, dataclasses.replace(lesions, groups={}))["all"],
        "scale_values": " ".join(f"{v:.3f}" for v in anchors.scales),
        "ratio_values": " ".join(f"{v:.3f}" for v in anchors.ratios),
    }
