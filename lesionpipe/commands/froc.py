"""`lesionpipe froc`: anybody's detections, as COCO files, scored by the published rule."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lesionpipe.evaluate.bootstrap import draw_patients
from lesionpipe.evaluate.coco_input import read_results, read_truth
from lesionpipe.evaluate.scores import MEAN_NAME, Number, Scores, defined, score

RATES = (0.5, 1, 2, 4, 8, 16)


def froc(
    ground_truth: Annotated[Path, typer.Option(help="COCO annotations: images and boxes of the lesions.")],
    detections: Annotated[Path, typer.Option(help="COCO results: image_id, bbox, score.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    iou: Annotated[float, typer.Option(min=0.01, max=1, help="Overlap that counts as a hit.")] = 0.5,
    bootstrap: Annotated[int, typer.Option(min=0, help="Draws of patients for the 95 % intervals; 0: none.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
) -> None:
    """Sensitivity at 0.5 to 16 false positives per image of COCO detections, by the published DeepLesion rule."""
    truth, ids = read_truth(ground_truth)
    found = read_results(detections, ids)
    scores = score(truth, found, RATES, iou, draw_patients(truth.patient_count, bootstrap, seed))
    print(json.dumps(as_dict(scores), indent=1, allow_nan=False) if as_json else as_text(scores))


def as_dict(scores: Scores) -> dict:
    """Numbers keyed by the rate, "0.5" … "16"; null: undefined (docs/evaluation.md)."""
    names = [f"{rate:g}" for rate in scores.rates]
    return {
        "sensitivity": {n: defined(s.value) for n, s in zip(names, scores.sensitivity, strict=True)},
        "intervals": {n: _interval(s) for n, s in zip(names, scores.sensitivity, strict=True)},
        "thresholds": {n: defined(t) for n, t in zip(names, scores.thresholds, strict=True)},
        "strict_sensitivity": {n: defined(s) for n, s in zip(names, scores.strict, strict=True)},
        MEAN_NAME: defined(scores.mean.value),
        f"{MEAN_NAME}_interval": _interval(scores.mean),
        f"map_{100 * scores.iou:.0f}": defined(scores.average_precision.value),
        "images": scores.images,
        "lesions": scores.lesions,
        "patients": scores.patients,
        "detections": scores.detections,
    }


def as_text(scores: Scores) -> str:
    """A table for people."""
    lines = [
        f"{scores.lesions} lesions on {scores.images} images of {scores.patients} patients, "
        f"{scores.detections} detections, IoU >= {scores.iou:g}",
        "FPs/image  sensitivity  95 % interval    threshold   strict",
    ]
    columns = (scores.rates, scores.sensitivity, scores.thresholds, scores.strict)
    for rate, number, limit, strict in zip(*columns, strict=True):
        lines.append(f"{rate:9g}  {_percent(number)}  {limit:10.4g}  {100 * strict:7.2f}")
    lines.append(f" 0.5 to 4  {_percent(scores.mean)}  (mean)")
    lines.append(f"{f'mAP@{scores.iou:g}':>9s}  {_percent(scores.average_precision)}")
    return "\n".join(lines).replace("nan", "  –")


def _percent(number: Number) -> str:
    return f"{100 * number.value:11.2f}  {100 * number.low:6.2f} – {100 * number.high:5.2f}"


def _interval(number: Number) -> list[float | None]:
    return [defined(number.low), defined(number.high)]
