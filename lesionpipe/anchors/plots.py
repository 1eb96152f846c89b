"""Pictures of anchors: lesion sizes with the anchors drawn over them."""

from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lesionpipe.anchors.grid import AnchorSet, cell_sides
from lesionpipe.anchors.overlap import BestOverlap, SplitBoxes
from lesionpipe.core.files import atomic_path

MISSED_COLOUR, MATCHED_COLOUR = "#d62728", "#b8b8b8"
LEVEL_COLOURS = ("#1f3b73", "#2a7fb8", "#2ca089", "#d98e04", "#8c3a8c", "#555555")


def draw_shapes(path: str | Path, sets: dict[str, AnchorSet], lesions: SplitBoxes) -> None:
    """Write a PNG, one panel per set: a dot per lesion (red: best anchor on the grid under 0.5), a cross per anchor.

    Width and height in px of the slice, on logarithmic axes, so that equal ratios lie on parallels of the diagonal.
    """
    figure = Figure(figsize=(4.6 * len(sets), 4.8), dpi=72, layout="constrained")
    axes = figure.subplots(1, len(sets), sharex=True, sharey=True, squeeze=False)[0]
    sides = lesions.boxes[:, 2:] - lesions.boxes[:, :2]
    for axis, (name, anchor_set) in zip(axes, sets.items(), strict=True):
        best = BestOverlap(lesions.boxes, anchor_set.strides, lesions.image_sizes).of(anchor_set)
        missed = best < 0.5
        axis.plot(*sides[~missed].T, ".", markersize=2, color=MATCHED_COLOUR, label="lesion")
        axis.plot(*sides[missed].T, ".", markersize=4, color=MISSED_COLOUR, label="lesion, best anchor under 0.5")
        for size, stride, colour in zip(anchor_set.sizes, anchor_set.strides, cycle(LEVEL_COLOURS), strict=False):
            crosses, label = cell_sides(size, anchor_set.scales, anchor_set.ratios).T, f"anchor, stride {stride}"
            axis.plot(*crosses, "x", markersize=5, markeredgewidth=1.4, color=colour, label=label)
        summary = f"mean IoU on the grid {best.mean():.3f}, {missed.mean():.1%} under 0.5"
        axis.set_title(f"{name}: {anchor_set.per_cell} anchors per cell\n{summary}", fontsize=10)
        axis.set_xlabel("width, px")
    _limit(axes[0], sides)
    axes[0].set_ylabel("height, px")
    axes[0].legend(fontsize=7, loc="upper left", framealpha=0.9)
    with atomic_path(path) as temporary:
        # No software version in the file: equal pictures are equal bytes.
        figure.savefig(temporary, format="png", metadata={"Software": None}, pil_kwargs={"optimize": True})


def _limit(axis, sides: np.ndarray) -> None:
    """Axes around the lesions; anchors far larger than any lesion lie outside."""
    low, high = max(sides.min(), 1) / 1.3, sides.max() * 1.3
    axis.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high), aspect="equal")
    ticks = [tick for tick in 2.0 ** np.arange(0, 12) if low <= tick <= high]
    for which in (axis.xaxis, axis.yaxis):
        which.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        which.set_ticks([], minor=True)
