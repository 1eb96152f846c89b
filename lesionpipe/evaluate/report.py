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
from lesionpipe.evaluate import plots
from lesionpipe.evaluate.froc import thresholds
from lesionpipe.evaluate.pictures import WINDOWS, Pictures, Verdict, choose, heat_picture, slice_pictures, verdicts
from lesionpipe.evaluate.scores import Number, Scores
from lesionpipe.evaluate.split import SplitResult
from lesionpipe.evaluate.strata import by_size
from lesionpipe.params import Evaluate

HERE = Path(__file__).parent
SIZE_RATE = 4.0  # false positives per image of the size plot (paper, Fig. 2)


def write_report(
    folder: str | Path, what: str, results: Sequence[SplitResult], pictures: Pictures, settings: Evaluate
) -> None:
    """Write `folder`/index.html; the last of `results` is the split whose strata and slices are shown.

    Args:
        what: one line that tells which data and set were evaluated.
    """
    shown = results[-1]
    rates = [f"{rate:g}" for rate in settings.fp_rates]
    page = (
        _environment()
        .get_template("report.html")
        .render(
            title="Lesion detection: FROC report",
            what=what,
            rates=rates,
            rows=[_row(result) for result in results],
            iou=f"{settings.iou:g}",
            plots=_plots(results),
            strata=[_stratum(name, table) for name, table in shown.groups.items()],
            shown_split=shown.split,
            windows=list(WINDOWS),
            style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
            script=Markup((HERE / "report.js").read_text(encoding="utf-8")),
            **_gallery(shown, pictures, settings),
        )
    )
    with atomic_folder(folder) as temporary:
        (temporary / "index.html").write_text(page, encoding="utf-8")


def _gallery(shown: SplitResult, pictures: Pictures, settings: Evaluate) -> dict:
    """The template's values for the slices at the operating point."""
    threshold = float(thresholds(shown.scores.events, np.array([settings.operating_fp]))[0])
    judged = verdicts(shown.truth, shown.detections, shown.matches, threshold)
    groups = _size_labels(shown.lesions, settings)
    strata = shown.lesions["type"].astype(str) + " " + groups
    chosen = choose(judged, shown.detections.scores, strata, settings.report_slices)
    return {
        "operating_fp": f"{settings.operating_fp:g}",
        "threshold": _short(threshold),
        "slices": len(judged),
        "chosen": len(chosen),
        "cards": [_card(v, shown, pictures, groups) for v in chosen],
    }


def _plots(results: Sequence[SplitResult]) -> list[dict]:
    curves = pd.concat([result.curve for result in results])
    return [
        {"svg": Markup(plots.froc_plot(curves)), "caption": "FROC; grey: published on DeepLesion's test split"},
        {
            "svg": Markup(plots.size_plot(results[-1].groups["size"], SIZE_RATE)),
            "caption": f"By size, at {SIZE_RATE:g} FPs; grey: published on DeepLesion's test split",
        },
    ]


def _environment() -> jinja2.Environment:
    return jinja2.Environment(loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined)


def _size_labels(lesions: pd.DataFrame, settings: Evaluate) -> pd.Series:
    """Size group of each lesion, by name."""
    labels = pd.Series("", index=range(len(lesions)), dtype=object)
    for name, mask in by_size(lesions, settings.size_edges_mm).items():
        labels[mask] = name
    return labels


def _row(result: SplitResult) -> dict:
    """A line of the main table: every number with its interval."""
    scores: Scores = result.scores
    numbers = (*scores.sensitivity, scores.mean, scores.average_precision)
    return {
        "split": f"{result.split} ({scores.lesions} lesions, {scores.images} slices)",
        "cells": [{"value": _percent(n.value), "interval": _interval(n)} for n in numbers],
        "thresholds": [_short(t) for t in scores.thresholds] + ["", ""],
    }


def _stratum(name: str, table: pd.DataFrame) -> dict:
    rows = [
        {"label": label, "lesions": int(part["lesions"].iloc[0]), "cells": [_percent(v) for v in part["sensitivity"]]}
        for label, part in table.groupby("group", sort=False)
    ]
    return {"name": name, "rows": rows}


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
    known = math.isfinite(size)
    return {
        "type": str(lesion["type"]),
        "mm": round(size, 1) if known else None,
        "size": f"{size:.1f} mm" if known else "size unknown",
    }


def _corners(box: np.ndarray) -> list[float]:
    return [round(float(v), 2) for v in box]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.1f}"


def _interval(number: Number) -> str:
    return "" if math.isnan(number.low) else f"{100 * number.low:.1f}–{100 * number.high:.1f}"


def _short(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
