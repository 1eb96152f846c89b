"""The report: one self-contained page with numbers, curves, strata and the slices as in the paper's Figs. 3 and 4.

It opens from disk without a server or network. Page text is escaped by the template (jinja2); the slices' data travel
as JSON and reach the page as text only.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from lesionpipe.core.files import atomic_folder
from lesionpipe.evaluate.froc import thresholds
from lesionpipe.evaluate.published import PUBLISHED_IOU
from lesionpipe.evaluate.report.pictures import (
    DISPLAY_WINDOWS,
    Pictures,
    Verdict,
    choose_slices,
    heat_picture,
    slice_pictures,
    verdicts,
)
from lesionpipe.evaluate.report.plots import froc_plot, size_plot
from lesionpipe.evaluate.scores import Estimate
from lesionpipe.evaluate.split import SplitResult, main_split

HERE = Path(__file__).parent
STRATA_TITLES = {"size": "size", "interval": "slice interval", "type": "type"}  # in the order of the page
SIZE_RATE = 4.0  # false positives per image of the size plot (paper, Fig. 2)


def write_report(
    folder: str | Path,
    about: str,
    results: Sequence[SplitResult],
    pictures: Pictures,
    published: pd.DataFrame,
    operating_fp: float,
    slices: int,
) -> None:
    """Write `folder`/index.html.

    Args:
        about: one line on the data and the set that were evaluated.
        pictures: of `main_split(results)`, whose strata and slices are shown.
        published: `published.published_table`; drawn at once if it is of the same data, else when the reader asks.
        operating_fp: false positives per image at which slices are shown.
        slices: how many at most.
    """
    shown = main_split(results)
    scores = shown.scores
    templates = jinja2.FileSystemLoader(HERE)
    environment = jinja2.Environment(loader=templates, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("report.html").render(
        title="Lesion detection: FROC report",
        about=about,
        rates=[f"{rate:g}" for rate in scores.rates],
        rows=[_row(result) for result in results],
        iou=f"{scores.iou:g}",
        published_iou=f"{PUBLISHED_IOU:g}",
        published="none" if published.empty else str(published["data"].iloc[0]),  # none, same data or other
        plots=_plots(results, published),
        strata=[_stratum(title, shown.groups[kind]) for kind, title in STRATA_TITLES.items()],
        shown_split=shown.split,
        windows=list(DISPLAY_WINDOWS),
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
        **_gallery(shown, pictures, operating_fp, slices),
    )
    with atomic_folder(folder) as temporary:
        (temporary / "index.html").write_text(page, encoding="utf-8")


def _gallery(shown: SplitResult, pictures: Pictures, operating_fp: float, slices: int) -> dict:
    """The template's values for the slices at the operating point."""
    threshold = float(thresholds(shown.scores.events, np.array([operating_fp]))[0])
    judged = verdicts(shown.truth, shown.detections, shown.matches, threshold)
    groups = _size_labels(shown)
    strata = shown.lesions["type"].astype(str) + " " + groups
    chosen = choose_slices(judged, shown.detections.scores, strata, slices)
    return {
        "operating_fp": f"{operating_fp:g}",
        "threshold": _short(threshold),
        "slices": len(judged),
        "chosen": len(chosen),
        "cards": [_card(v, shown, pictures, groups) for v in chosen],
    }


def _plots(results: Sequence[SplitResult], published: pd.DataFrame) -> list[dict]:
    """The two plots without and with published numbers (none: without alone), and their captions."""
    curves, sizes = pd.concat([result.curve for result in results]), main_split(results).groups["size"]
    rate = nearest_rate(main_split(results).scores.rates, SIZE_RATE)
    instead = "" if rate == SIZE_RATE else f" ({SIZE_RATE:g} is not among evaluate.fp_rates)"
    nothing = published.iloc[:0]
    plots = [
        ("FROC with 95 % interval", [froc_plot(curves, table) for table in (nothing, published)]),
        (f"By size, at {rate:g} FPs per image{instead}", [size_plot(sizes, rate, t) for t in (nothing, published)]),
    ]
    return [
        {"caption": caption, "alone": Markup(alone), "beside": None if published.empty else Markup(beside)}
        for caption, (alone, beside) in plots
    ]


def nearest_rate(rates: Sequence[float], wanted: float) -> float:
    """The rate that differs from `wanted` by the smallest factor."""
    return min(rates, key=lambda rate: abs(math.log(rate / wanted)))


def _size_labels(result: SplitResult) -> pd.Series:
    """Size group of each lesion, by name."""
    labels = pd.Series("", index=range(len(result.lesions)), dtype=object)
    for name, mask in result.size_groups.items():
        labels[mask] = name
    return labels


def _row(result: SplitResult) -> dict:
    """A line of the main table: every number with its interval."""
    scores = result.scores
    estimates = (*scores.sensitivity, scores.mean, scores.average_precision)
    return {
        "split": f"{result.split} ({scores.lesions} lesions, {scores.images} slices)",
        "cells": [{"value": _percent(e.value), "interval": _interval(e)} for e in estimates],
        "thresholds": [_short(t) for t in scores.thresholds] + ["", ""],
    }


def _stratum(title: str, table: pd.DataFrame) -> dict:
    rows = [
        {"label": label, "lesions": int(part["lesions"].iloc[0]), "cells": [_percent(v) for v in part["sensitivity"]]}
        for label, part in table.groupby("group", sort=False)
    ]
    return {"title": title, "rows": rows}


def _card(verdict: Verdict, shown: SplitResult, pictures: Pictures, groups: pd.Series) -> dict:
    """All that the page's script needs to draw one slice."""
    name, hu = shown.truth.images[verdict.image], pictures.slices(verdict.image)
    lesions = zip(verdict.lesions, verdict.found, strict=True)
    detections = zip(verdict.detections, verdict.hit, strict=True)
    scores, boxes = shown.detections.scores, pictures.detection_boxes
    return {
        "file_name": name,
        "side": hu.shape[-1],
        "windows": slice_pictures(hu),
        "heat": heat_picture(pictures.heat[name]) if name in pictures.heat else None,
        "lesions": [
            {"box": _corners(pictures.lesion_boxes[i]), "found": bool(found), "group": groups[i]}
            | _facts(shown.lesions.iloc[i])
            for i, found in lesions
        ],
        "detections": [
            {"box": _corners(boxes[d]), "score": round(float(scores[d]), 3), "hit": bool(hit)} for d, hit in detections
        ],
    }


def _facts(lesion: pd.Series) -> dict:
    """Type and size of a lesion in words; mm is None where the size is not known."""
    size = float(lesion["long_diameter_mm"])
    known = {"mm": round(size, 1), "size": f"{size:.1f} mm"} if math.isfinite(size) else None
    return {"type": str(lesion["type"])} | (known or {"mm": None, "size": "size unknown"})


def _corners(box: np.ndarray) -> list[float]:
    return [round(float(v), 2) for v in box]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _interval(estimate: Estimate) -> str:
    return "" if math.isnan(estimate.low) else f"{100 * estimate.low:.1f}–{100 * estimate.high:.1f}"


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3g}"
