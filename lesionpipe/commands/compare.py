"""`lesionpipe compare`: is one detector better than another, or is it chance?"""

import json
from typing import Annotated, Literal

import typer

from lesionpipe.commands.console import print_text
from lesionpipe.core.errors import UserError
from lesionpipe.evaluate.comparison import Comparison, on_images_of, paired_bootstrap, require_same_truth
from lesionpipe.evaluate.revisions import open_run
from lesionpipe.evaluate.scores import null_if_nan
from lesionpipe.params import load_params


def compare(
    a: Annotated[str, typer.Argument(help="A detections.csv, or a Git revision or experiment name.")],
    b: Annotated[str, typer.Argument(help="What to compare it with.")],
    split: Annotated[Literal["train", "val", "test"], typer.Option(help="Slices to compare on.")] = "test",
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
    one, other = open_run(a, split, params.dataset.parts, noisy), open_run(b, split, params.dataset.parts, noisy)
    require_same_truth(one.truth, other.truth, (a, b))
    others = on_images_of(one.truth, other.detections, other.truth)
    result = paired_bootstrap(
        one.truth, one.detections, others, chosen.fp_rates, chosen.iou, chosen.bootstrap, chosen.seed
    )
    if as_json:
        print_text(json.dumps(comparison_json(result), indent=1, allow_nan=False))
    else:
        print_text(comparison_text(result, a, b, f"{split}, IoU {chosen.iou:g}, lesions.noisy {noisy}"))


def comparison_json(result: Comparison) -> dict:
    """Numbers keyed by the rate; null where undefined."""
    rows = zip(result.rates, result.a, result.b, result.difference, result.low, result.high, result.p, strict=True)
    names = ("a", "b", "difference", "low", "high", "p")
    at = {f"{rate:g}": {n: null_if_nan(float(v)) for n, v in zip(names, row, strict=True)} for rate, *row in rows}
    return {"at": at, "images": result.images, "lesions": result.lesions, "patients": result.patients}


def comparison_text(result: Comparison, a: str, b: str, rule: str) -> str:
    """A table for people, in percent; `rule` names the split and how both were scored."""
    lines = [
        f"A = {a}, B = {b}: {result.lesions} lesions on {result.images} slices of {result.patients} patients ({rule})",
        "FPs/image     A, %    B, %   B − A  95 % interval         p",
    ]
    for rate, *values, p in zip(
        result.rates, result.a, result.b, result.difference, result.low, result.high, result.p, strict=True
    ):
        one, other, difference, low, high = (100 * v for v in values)
        lines.append(f"{rate:9g}  {one:6.2f}  {other:6.2f}  {difference:+6.2f}  {low:+6.2f} … {high:+6.2f}  {p:8.4f}")
    return "\n".join(lines).replace("nan", "  –")
