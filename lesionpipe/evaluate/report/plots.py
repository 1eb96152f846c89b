"""Curves for the report as SVG: FROC with its band beside published points, sensitivity by size (paper, Fig. 2).

`published` (`published.published_table`) may be empty; then nothing stands beside the run.
"""

import numpy as np
import pandas as pd

from lesionpipe.core.figures import load_matplotlib, svg_of
from lesionpipe.evaluate.published import OTHER_DATA

COLOURS = {"test": "#1f5fd0", "val": "#8a5cd1", "train": "#5c6675"}
INK, GREYS = "#1d2430", ("#9aa3af", "#c3c9d1")
MARKERS = "osD^vP*X"
FIGURE_STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lesionpipe",
    "font.family": "sans-serif",
}
FIGURE_INCHES = (6.4, 4.4)
BAR_WIDTH, BAR_STEP = 0.25, 0.27


def froc_plot(curves: pd.DataFrame, published: pd.DataFrame) -> str:
    """SVG of sensitivity over false positives per image, one line and band per split, beside published points.

    Args:
        curves: columns split, fps_per_image, sensitivity, low, high (`tables.froc_table`).
    """
    matplotlib = load_matplotlib()
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = matplotlib.figure.Figure(figsize=FIGURE_INCHES, layout="constrained")
        axes = figure.subplots()
        for split, curve in curves.groupby("split", sort=False):
            colour, x = COLOURS.get(split, INK), curve["fps_per_image"]
            axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, curve["sensitivity"], color=colour, linewidth=2, label=f"this run, {split}")
        rows = published[published["group"] == "all"]
        for (name, points), marker in zip(rows.groupby("method", sort=False), MARKERS, strict=False):
            x, style = points["fps_per_image"], {"color": GREYS[0], "markersize": 4, "clip_on": False}
            axes.plot(x, points["sensitivity"], marker, label=name, **style)
        end = curves["fps_per_image"].max()
        axes.set(xscale="log", xlabel="false positives per image", ylabel="sensitivity", ylim=(0, 1), xlim=(0.125, end))
        ticks = {0.125: "⅛", 0.25: "¼", 0.5: "½", 1: "1", 2: "2", 4: "4", 8: "8", 16: "16", 32: "32"}
        axes.set_xticks([rate for rate in ticks if rate <= end], [t for rate, t in ticks.items() if rate <= end])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        _legend_above(figure, rows)
        return svg_of(figure)


def size_plot(groups: pd.DataFrame, rate: float, published: pd.DataFrame) -> str:
    """SVG of bars: sensitivity by lesion size at one rate, beside published ones of the same group and rate.

    Args:
        groups: columns group, lesions, fps_per_image, sensitivity, low, high of one split (`tables.group_table`).
        rate: one of its fps_per_image.
    """
    rows = groups[groups["fps_per_image"] == rate]
    beside = published[(published["fps_per_image"] == rate) & published["group"].isin(rows["group"])]
    place = dict(zip(rows["group"], np.arange(len(rows)), strict=True))
    first = -0.5 * beside["method"].nunique() * BAR_STEP  # so that the bars of a group stand around its tick
    spread = np.clip([rows["sensitivity"] - rows["low"], rows["high"] - rows["sensitivity"]], 0, None)
    error = {"yerr": np.nan_to_num(spread), "error_kw": {"linewidth": 1, "ecolor": INK}}
    matplotlib = load_matplotlib()
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = matplotlib.figure.Figure(figsize=FIGURE_INCHES, layout="constrained")
        axes = figure.subplots()
        at = np.arange(len(rows)) + first
        axes.bar(at, rows["sensitivity"], BAR_WIDTH, color=COLOURS["test"], label="this run", **error)
        for i, (name, bars) in enumerate(beside.groupby("method", sort=False)):
            at = bars["group"].map(place) + first + (i + 1) * BAR_STEP
            axes.bar(at, bars["sensitivity"], BAR_WIDTH, color=GREYS[i % len(GREYS)], label=name)
        labels = [f"{g}\n{n} lesions" for g, n in zip(rows["group"], rows["lesions"], strict=True)]
        axes.set_xticks(list(place.values()), labels)
        axes.set(ylabel=f"sensitivity at {rate:g} FPs per image", ylim=(0, 1), xlim=(-0.6, len(rows) - 0.4))
        _legend_above(figure, beside)
        return svg_of(figure)


def _legend_above(figure, published: pd.DataFrame) -> None:
    """Outside the axes, where it covers no run; its title says when published numbers are of other data."""
    title = "grey: published on other data (DeepLesion's test split)" if OTHER_DATA in set(published["data"]) else None
    figure.legend(
        loc="outside upper center", ncols=2, frameon=False, fontsize=8, title=title, title_fontproperties={"size": 8}
    )
