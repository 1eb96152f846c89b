"""`lesionpipe compare`: is one detector better than another, or is it chance?"""

from typing import Annotated

import typer

from lesionpipe.commands.console import print_result
from lesionpipe.core.errors import UserError
from lesionpipe.evaluate.comparison import Comparison, on_images_of, paired_bootstrap, require_same_truth
from lesionpipe.evaluate.revisions import open_run
from lesionpipe.evaluate.scores import by_rate
from lesionpipe.params import load_params
from lesionpipe.params.sections import Split

DIFFERENCE_COLUMNS = ("a", "b", "difference", "low", "high", "p")  # of `Comparison`, one number per rate


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
    (truth, found), (own, others) = (open_run(name, split, params.dataset.parts, noisy) for name in (a, b))
    require_same_truth(truth, own, (a, b))
    both = found, on_images_of(truth, others, own)
    result = paired_bootstrap(truth, *both, chosen.fp_rates, chosen.iou, chosen.bootstrap, chosen.seed)
    rule = f"{split}, IoU {chosen.iou:g}, lesions.noisy {noisy}"
    print_result(comparison_json(result) if as_json else comparison_text(result, a, b, rule))


def comparison_json(result: Comparison) -> dict:
    """Numbers keyed by the rate; null where undefined."""
    at = by_rate(result.rates, **{name: getattr(result, name) for name in DIFFERENCE_COLUMNS})
    return {"at": at, "images": result.images, "lesions": result.lesions, "patients": result.patients}


def comparison_text(result: Comparison, a: str, b: str, rule: str) -> str:
    """A table for people, in percent; `rule` names the split and how both were scored."""
    lines = [
        f"A = {a}, B = {b}: {result.lesions} lesions on {result.images} slices of {result.patients} patients ({rule})",
        "FPs/image     A, %    B, %   B − A  95 % interval         p",
    ]
    for rate, *values, p in zip(result.rates, *(getattr(result, name) for name in DIFFERENCE_COLUMNS), strict=True):
        one, other, difference, low, high = (100 * v for v in values)
        lines.append(f"{rate:9g}  {one:6.2f}  {other:6.2f}  {difference:+6.2f}  {low:+6.2f} … {high:+6.2f}  {p:8.4f}")
    return "\n".join(lines).replace("nan", "  –")
