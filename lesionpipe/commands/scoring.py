"""`lesionpipe froc` and `lesionpipe compare`: detections scored by the published rule, as a table or as JSON."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from lesionpipe.core.errors import UserError
from lesionpipe.data.coco import read_coco_results
from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.coco import read_truth
from lesionpipe.evaluate.comparison import compare_rows, score_runs
from lesionpipe.evaluate.runs import open_runs
from lesionpipe.evaluate.scores import MEAN_NAME, Estimate, Scores, by_rate, null_if_nan, score_detections
from lesionpipe.evaluate.truth import Detections
from lesionpipe.params import load_params
from lesionpipe.params.sections import Split

FROC_RATES = (0.5, 1, 2, 4, 8, 16)  # false positives per image
_PLAIN = str.maketrans({"–": "-", "−": "-", "…": "...", "≥": ">=", "±": "+/-"})


def froc(
    ground_truth: Annotated[Path, typer.Option(help="COCO annotations: images and boxes of the lesions.")],
    detections: Annotated[Path, typer.Option(help="COCO results: image_id, bbox, score.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    iou: Annotated[float, typer.Option(min=0.01, max=1, help="Overlap that counts as a hit.")] = 0.5,
    bootstrap: Annotated[int, typer.Option(min=0, max=1_000_000, help="Draws of patients; 0: no intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
    patient_key: Annotated[
        str | None,
        typer.Option(help="Field of images that names the patient; if not given patient, or a DeepLesion file name."),
    ] = None,
) -> None:
    """Sensitivity at 0.5 to 16 false positives per image of COCO detections, by the published DeepLesion rule."""
    truth, ids = read_truth(ground_truth, patient_key)
    found = Detections(*read_coco_results(detections, ids))
    scores = score_detections(truth, found, FROC_RATES, iou, PatientDraws(truth.patient_count, bootstrap, seed))
    print_result(froc_json(scores) if as_json else froc_text(scores))


def compare(
    a: Annotated[str, typer.Argument(help="A detections.csv, or a Git revision or experiment name.")],
    b: Annotated[str, typer.Argument(help="What to compare it with.")],
    split: Annotated[Split, typer.Option(help="Slices to compare on.")] = "test",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Difference B - A at each rate, with 95 % interval and p-value from a paired bootstrap over patients.

    Both are judged alike, by the overlap, rates, draws and seed of the section evaluate and by lesions.noisy in today's
    params.yaml.
    """
    params = load_params()
    chosen, noisy = params.evaluate, params.lesions.noisy
    if not chosen.bootstrap:
        raise UserError("params.yaml: evaluate.bootstrap = 0: a comparison needs draws; set it to 1000")
    truth, found = open_runs((a, b), split, params.dataset.parts, noisy)
    draws = PatientDraws(truth.patient_count, chosen.bootstrap, chosen.seed)
    before, after = (score_runs(truth, {0: one}, chosen.fp_rates, chosen.iou, draws) for one in found)
    step = compare_rows(before, after, chosen.seed)
    values = {"a": before.sensitivities[0], "b": after.sensitivities[0], "difference": step.difference}
    at = by_rate(chosen.fp_rates, **values, low=step.low, high=step.high, p=step.p)
    sizes = "{lesions} lesions on {images} slices of {patients} patients".format(**truth.sizes)
    head = f"A = {a}, B = {b}: {sizes} ({split}, IoU {chosen.iou:g}, lesions.noisy {noisy})"
    print_result({"at": at, **truth.sizes} if as_json else f"{head}\n{comparison_text(at)}")


def print_result(result: str | dict) -> None:
    """Print text, or numbers as JSON, with plain signs where the output's encoding (latin-1, ASCII) lacks some."""
    text = result if isinstance(result, str) else json.dumps(result, indent=1, allow_nan=False)
    encoding = sys.stdout.encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN).encode(encoding, "backslashreplace").decode(encoding)
    print(text)


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
    } | scores.sizes


def froc_text(scores: Scores) -> str:
    lines = [
        "{lesions} lesions on {images} images of {patients} patients, {detections} detections, ".format(**scores.sizes)
        + f"IoU >= {scores.iou:g}",
        "FPs/image  sensitivity  95 % interval    threshold   strict",
    ]
    columns = (scores.rates, scores.sensitivity, scores.thresholds, scores.strict)
    for rate, estimate, limit, strict in zip(*columns, strict=True):
        lines.append(f"{rate:9g}  {_percent(estimate)}  {limit:10.4g}  {100 * strict:7.2f}")
    lines.append(f" 0.5 to 4  {_percent(scores.mean)}  (mean)")
    lines.append(f"{f'AP@{scores.iou:g}':>9s}  {_percent(scores.average_precision)}")
    return "\n".join(lines).replace("nan", "  –")


def comparison_text(at: dict[str, dict[str, float | None]]) -> str:
    """The numbers at each rate, in percent."""
    lines = ["FPs/image     A, %    B, %   B − A  95 % interval         p"]
    for rate, numbers in at.items():
        *shares, p = (float("nan") if value is None else value for value in numbers.values())
        one, other, difference, low, high = (100 * share for share in shares)
        lines.append(f"{rate:>9}  {one:6.2f}  {other:6.2f}  {difference:+6.2f}  {low:+6.2f} … {high:+6.2f}  {p:8.4f}")
    return "\n".join(lines).replace("nan", "  –")


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:11.2f}  {100 * estimate.low:6.2f} – {100 * estimate.high:5.2f}"


def _bounds(estimate: Estimate) -> list[float | None]:
    return [null_if_nan(estimate.low), null_if_nan(estimate.high)]
