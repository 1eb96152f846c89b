"""`lesionpipe froc`: anybody's detections, as COCO files, scored by the published rule."""

from pathlib import Path
from typing import Annotated

import typer

from lesionpipe.commands.console import print_result
from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.coco_input import read_results, read_truth
from lesionpipe.evaluate.scores import MEAN_NAME, SET_SIZES, Estimate, Scores, null_if_nan, score_detections

FROC_RATES = (0.5, 1, 2, 4, 8, 16)


def froc(
    ground_truth: Annotated[Path, typer.Option(help="COCO annotations: images and boxes of the lesions.")],
    detections: Annotated[Path, typer.Option(help="COCO results: image_id, bbox, score.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    iou: Annotated[float, typer.Option(min=0.01, max=1, help="Overlap that counts as a hit.")] = 0.5,
    bootstrap: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Draws of patients for the 95 % intervals; 0: none.")
    ] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    patient_key: Annotated[
        str | None,
        typer.Option(help="Field of images that names the patient; if not given patient, or a DeepLesion file name."),
    ] = None,
) -> None:
    """Sensitivity at 0.5 to 16 false positives per image of COCO detections, by the published DeepLesion rule."""
    truth, ids = read_truth(ground_truth, patient_key)
    found = read_results(detections, ids)
    scores = score_detections(truth, found, FROC_RATES, iou, PatientDraws(truth.patient_count, bootstrap, seed))
    print_result(froc_json(scores) if as_json else froc_text(scores))


def froc_json(scores: Scores) -> dict:
    """Numbers keyed by the rate, "0.5" … "16"; null: undefined (docs/evaluate.md)."""
    names = [f"{rate:g}" for rate in scores.rates]
    return {
        "sensitivity": {n: null_if_nan(s.value) for n, s in zip(names, scores.sensitivity, strict=True)},
        "intervals": {n: _bounds(s) for n, s in zip(names, scores.sensitivity, strict=True)},
        "thresholds": {n: null_if_nan(t) for n, t in zip(names, scores.thresholds, strict=True)},
        "strict_sensitivity": {n: null_if_nan(s) for n, s in zip(names, scores.strict, strict=True)},
        MEAN_NAME: null_if_nan(scores.mean.value),
        f"{MEAN_NAME}_interval": _bounds(scores.mean),
        "average_precision": null_if_nan(scores.average_precision.value),
        "average_precision_interval": _bounds(scores.average_precision),
        "iou": scores.iou,
    } | {name: getattr(scores, name) for name in SET_SIZES}


def froc_text(scores: Scores) -> str:
    """A table for people."""
    lines = [
        f"{scores.lesions} lesions on {scores.images} images of {scores.patients} patients, "
        f"{scores.detections} detections, IoU >= {scores.iou:g}",
        "FPs/image  sensitivity  95 % interval    threshold   strict",
    ]
    columns = (scores.rates, scores.sensitivity, scores.thresholds, scores.strict)
    for rate, estimate, limit, strict in zip(*columns, strict=True):
        lines.append(f"{rate:9g}  {_percent(estimate)}  {limit:10.4g}  {100 * strict:7.2f}")
    lines.append(f" 0.5 to 4  {_percent(scores.mean)}  (mean)")
    lines.append(f"{f'AP@{scores.iou:g}':>9s}  {_percent(scores.average_precision)}")
    return "\n".join(lines).replace("nan", "  –")


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:11.2f}  {100 * estimate.low:6.2f} – {100 * estimate.high:5.2f}"


def _bounds(estimate: Estimate) -> list[float | None]:
    return [null_if_nan(estimate.low), null_if_nan(estimate.high)]
