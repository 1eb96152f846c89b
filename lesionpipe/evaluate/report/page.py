"""The report: one self-contained page with numbers, curves, groups and the slices as in the paper's Figs. 3 and 4.

It opens from disk without a server or network. Page text is escaped by the template (jinja2); the slices' data travel
as JSON and reach the page as text only. The curves are SVG: FROC with its band, and sensitivity by size (paper, Fig.
2), each alone and beside published points.
"""

import io
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd

from lesionpipe.core.files import atomic_folder
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.evaluate.published import OTHER_DATA, PUBLISHED_IOU
from lesionpipe.evaluate.report.gallery import DISPLAY_WINDOWS, gallery
from lesionpipe.evaluate.scores import percent
from lesionpipe.evaluate.split import SplitResult, main_split
from lesionpipe.params.sections import Evaluate

HERE = Path(__file__).parent
SIZE_RATE = 4.0  # false positives per image of the size plot (paper, Fig. 2)
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


def write_report(
    folder: str | Path,
    about: str,
    results: Sequence[SplitResult],
    store: SliceStore,
    heatmaps: dict[str, np.ndarray],
    published: pd.DataFrame,
    settings: Evaluate,
) -> None:
    """Write `folder`/index.html.

    `about` is a line on the data and the set that were evaluated; slices of `main_split(results)` are shown, out of the
    store of all splits. `published` (of `published_table`) is drawn at once if it is of the same data, else on demand.
    """
    shown, templates = main_split(results), jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=templates, autoescape=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"percent": percent, "short": _short}
    environment.tests["nan"] = math.isnan
    page = environment.get_template("report.html").render(
        about=about,
        results=results,
        shown=shown,
        operating_fp=settings.operating_fp,
        published_iou=PUBLISHED_IOU,
        published="none" if published.empty else str(published["data"].iloc[0]),  # none, same data or other
        plots=_plots(results, shown, published),
        windows=list(DISPLAY_WINDOWS),
        style=(HERE / "report.css").read_text(encoding="utf-8"),
        script=(HERE / "report.js").read_text(encoding="utf-8"),
        **gallery(shown, store, heatmaps, settings.operating_fp, settings.report_slices),
    )
    with atomic_folder(folder) as temporary:
        (temporary / "index.html").write_text(page, encoding="utf-8")


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"


def _plots(results: Sequence[SplitResult], shown: SplitResult, published: pd.DataFrame) -> list[dict]:
    """The two plots without and with published numbers (none: without alone), and their captions."""
    rate = min(shown.scores.rates, key=lambda rate: abs(math.log(rate / SIZE_RATE)))  # that differs by the least factor
    instead = "" if rate == SIZE_RATE else f" ({SIZE_RATE:g} is not among evaluate.fp_rates)"
    sizes = shown.groups["size"]
    plots = {
        "FROC with 95 % interval": (_draw_froc, pd.concat([result.curve for result in results])),
        f"By size, at {rate:g} FPs per image{instead}": (_draw_sizes, sizes[sizes["fps_per_image"] == rate]),
    }
    return [
        {
            "caption": caption,
            "alone": _svg(draw, table, published.iloc[:0]),
            "beside": None if published.empty else _svg(draw, table, published),
        }
        for caption, (draw, table) in plots.items()
    ]


def _svg(draw: Callable, table: pd.DataFrame, published: pd.DataFrame) -> str:
    """A figure with the legend outside the axes, where it covers no run; it tells published numbers of other data."""
    os.environ.pop("MPLBACKEND", None)  # it may name a backend that doesn't exist, and a file needs none
    import matplotlib.figure

    with matplotlib.rc_context(FIGURE_STYLE):
        figure = matplotlib.figure.Figure(figsize=FIGURE_INCHES, layout="constrained")
        beside = draw(figure.subplots(), table, published)
        other = OTHER_DATA in set(beside["data"])
        title = "grey: published on other data (DeepLesion's test split)" if other else None
        style = {"frameon": False, "fontsize": 8, "title_fontproperties": {"size": 8}}
        figure.legend(loc="outside upper center", ncols=2, title=title, **style)
        markup = io.StringIO()
        figure.savefig(markup, format="svg", metadata={"Date": None})  # same bytes for same data
    return markup.getvalue()[markup.getvalue().index("<svg") :]  # to stand inside a page, without the XML heading


def _draw_froc(axes, curves: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Sensitivity over false positives per image, one line and band per split; returns the published rows beside."""
    for split, curve in curves.groupby("split", sort=False):
        colour, x = COLOURS.get(split, INK), curve["fps_per_image"]
        axes.fill_between(x, curve["low"], curve["high"], color=colour, alpha=0.15, linewidth=0)
        axes.plot(x, curve["sensitivity"], color=colour, linewidth=2, label=f"this run, {split}")
    beside = published[published["group"] == "all"]
    for (name, points), marker in zip(beside.groupby("method", sort=False), MARKERS, strict=False):
        x, style = points["fps_per_image"], {"color": GREYS[0], "markersize": 4, "clip_on": False}
        axes.plot(x, points["sensitivity"], marker, label=name, **style)
    end = curves["fps_per_image"].max()
    axes.set(xscale="log", xlabel="false positives per image", ylabel="sensitivity", ylim=(0, 1), xlim=(0.125, end))
    ticks = {0.125: "⅛", 0.25: "¼", 0.5: "½", 1: "1", 2: "2", 4: "4", 8: "8", 16: "16", 32: "32"}
    axes.set_xticks([rate for rate in ticks if rate <= end], [t for rate, t in ticks.items() if rate <= end])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    return beside


def _draw_sizes(axes, sizes: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Bars of the sensitivity by lesion size at one rate; returns the published rows of the same groups and rate."""
    rate, place = sizes["fps_per_image"].iloc[0], {name: at for at, name in enumerate(sizes["group"])}
    beside = published[(published["fps_per_image"] == rate) & published["group"].isin(sizes["group"])]
    first = -0.5 * beside["method"].nunique() * BAR_STEP  # so that the bars of a group stand around its tick
    spread = np.clip([sizes["sensitivity"] - sizes["low"], sizes["high"] - sizes["sensitivity"]], 0, None)
    error = {"yerr": np.nan_to_num(spread), "error_kw": {"linewidth": 1, "ecolor": INK}}
    at = np.arange(len(sizes)) + first
    axes.bar(at, sizes["sensitivity"], BAR_WIDTH, color=COLOURS["test"], label="this run", **error)
    for i, (name, bars) in enumerate(beside.groupby("method", sort=False)):
        at = bars["group"].map(place) + first + (i + 1) * BAR_STEP
        axes.bar(at, bars["sensitivity"], BAR_WIDTH, color=GREYS[i % len(GREYS)], label=name)
    labels = [f"{group}\n{lesions} lesions" for group, lesions in zip(sizes["group"], sizes["lesions"], strict=True)]
    axes.set_xticks(list(place.values()), labels)
    axes.set(ylabel=f"sensitivity at {rate:g} FPs per image", ylim=(0, 1), xlim=(-0.6, len(sizes) - 0.4))
    return beside
