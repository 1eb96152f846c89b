"""Curves for the report as SVG: FROC with its band beside published points, sensitivity by size (paper, Fig. 2)."""

import io

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lesionpipe.evaluate.published import FROC, RATES, SIZES

COLOURS = {"test": "#1f5fd0", "val": "#8a5cd1", "train": "#5c6675"}
INK = "#1d2430"
PUBLISHED = list(FROC)[:5]  # the best and the paper's first and last row
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "lesionpipe",
    "font.family": "sans-serif",
}


def froc_plot(curves: pd.DataFrame) -> str:
    """SVG of sensitivity over false positives per image, one line and band per split, beside published points.

    Args:
        curves: columns split, fps_per_image, sensitivity, low, high (`tables.froc_table`).
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        for split, curve in curves.groupby("split", sort=False):
            colour = COLOURS.get(split, INK)
            axes.fill_between(
                curve["fps_per_image"], curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0
            )
            axes.plot(
                curve["fps_per_image"], curve["sensitivity"], color=colour, linewidth=2, label=f"this run, {split}"
            )
        for name, marker in zip(PUBLISHED, "osD^v", strict=True):
            axes.plot(RATES, np.array(FROC[name]) / 100, marker, color="#9aa3af", markersize=4, label=name)
        axes.set(xscale="log", xlabel="false positives per image", ylabel="sensitivity", ylim=(0, 1), xlim=(0.125, 32))
        axes.set_xticks([0.125, 0.25, 0.5, 1, 2, 4, 8, 16, 32], ["⅛", "¼", "½", "1", "2", "4", "8", "16", "32"])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)  # weak runs lie at the bottom
        return _svg(figure)


def size_plot(groups: pd.DataFrame, rate: float) -> str:
    """SVG of bars: sensitivity by lesion size at one rate, beside the paper's and 3DCE's (paper, Fig. 2 right).

    Args:
        groups: columns group, fps_per_image, sensitivity, low, high of one split (`tables.group_table`).
    """
    rows = groups[groups["fps_per_image"] == rate]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 4.4), layout="constrained")
        axes = figure.subplots()
        place = np.arange(len(rows))
        spread = np.clip([rows["sensitivity"] - rows["low"], rows["high"] - rows["sensitivity"]], 0, None)
        axes.bar(
            place - 0.27,
            rows["sensitivity"],
            0.25,
            yerr=np.nan_to_num(spread),
            color=COLOURS["test"],
            error_kw={"linewidth": 1, "ecolor": INK},
            label="this run",
        )
        for shift, (name, values) in zip((0, 0.27), SIZES.items(), strict=True):
            if len(values) <= len(rows):  # the published groups, and perhaps lesions of unknown size after them
                bars = place[: len(values)] + shift
                axes.bar(bars, np.array(values) / 100, 0.25, color="#c3c9d1" if shift else "#9aa3af", label=name)
        axes.set_xticks(place, [f"{g}\n{n} lesions" for g, n in zip(rows["group"], rows["lesions"], strict=True)])
        axes.set(ylabel=f"sensitivity at {rate:g} FPs per image", ylim=(0, 1))
        figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=8)
        return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as markup to stand inside a page: without the XML heading, same bytes for same data."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
