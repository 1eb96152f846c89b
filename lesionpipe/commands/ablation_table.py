"""The scores of the ablation's finished runs, read from DVC: as they stand in JSON, and as Markdown for people."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

from lesionpipe.commands.froc import FROC_RATES
from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.comparison import on_images_of, require_same_truth
from lesionpipe.evaluate.revisions import open_run
from lesionpipe.evaluate.scores import by_rate, null_if_nan
from lesionpipe.evaluate.seeds import SeededRuns, compare_rows, score_runs, summarise_row
from lesionpipe.evaluate.truth import Detections, Truth
from lesionpipe.params import Params

SPLIT = "test"
INTERVAL_RATE = "4"  # false positives per image at which the Markdown shows intervals and steps


def score_rows(rows: Sequence[str], finished: Mapping[str, Mapping[int, str]], params: Params) -> dict:
    """The finished runs, all judged by today's `evaluate` and `lesions.noisy`, and the steps between rows (`seeds`).

    Sensitivities are shares, keyed by the rate; None where a number is undefined or no run of a row is finished.

    Args:
        rows: names of all rows, in order.
        finished: Git reference of each finished run by row and seed; at least one.

    Raises:
        UserError: detections are in no cache, or two runs were evaluated on different slices or lesions.
    """
    truth, detections = _open_runs(finished, params)
    chosen = params.evaluate
    draws = PatientDraws(truth.patient_count, chosen.bootstrap, chosen.seed)
    scored = {row: score_runs(truth, runs, FROC_RATES, chosen.iou, draws) for row, runs in detections.items()}
    return {
        "split": SPLIT,
        "images": len(truth.images),
        "lesions": len(truth.lesion_images),
        "patients": truth.patient_count,
        "iou": chosen.iou,
        "noisy": params.lesions.noisy,
        "draws": chosen.bootstrap,
        "rows": {row: _row(scored[row], chosen.seed) if row in scored else None for row in rows},
        "steps": [_step(scored, *pair, chosen.seed) for pair in pairwise(rows) if scored.keys() >= set(pair)],
    }


def ablation_table(scores: dict) -> str:
    """Two Markdown tables in percent, rows and steps between them, each under a line that says what it holds.

    A dash stands where a row isn't finished or a number undefined.
    """
    sizes = f"{scores['lesions']} lesions on {scores['images']} slices of {scores['patients']} patients"
    rule = f"{sizes}, IoU {scores['iou']:g}, lesions.noisy {scores['noisy']}"
    head = ["row", "seeds", *(f"{rate:g} FP" for rate in FROC_RATES), f"AP@{scores['iou']:g}"]
    lines = [
        f"Sensitivity in % on {SPLIT} ({rule}): mean over seeds ± standard deviation between seeds, 95 % interval over "
        f"patients and seeds in brackets",
        "",
        *_markdown(head, [[name, *_row_cells(row)] for name, row in scores["rows"].items()]),
    ]
    if scores["steps"]:
        rule = f"Steps at {INTERVAL_RATE} FP, in points, paired over patients and seeds ({scores['draws']} draws)"
        head = ["step", "seeds", "difference", "95 % interval", "p"]
        lines += ["", rule, "", *_markdown(head, [_step_cells(step) for step in scores["steps"]])]
    return "\n".join(lines)


def _open_runs(
    finished: Mapping[str, Mapping[int, str]], params: Params
) -> tuple[Truth, dict[str, dict[int, Detections]]]:
    """What all runs were evaluated on, and what each found, by row and seed."""
    truth, first, found = None, "", {}
    for row, runs in finished.items():
        for seed, reference in runs.items():
            own, detections = open_run(reference, SPLIT, params.dataset.parts, params.lesions.noisy)
            truth, first = truth or own, first or reference
            require_same_truth(truth, own, (first, reference))
            found.setdefault(row, {})[seed] = on_images_of(truth, detections, own)
    return truth, found


def _row(runs: SeededRuns, seed: int) -> dict:
    row = summarise_row(runs, seed)
    precision = {"mean": row.average_precision, "spread": row.average_precision_spread}
    return {
        "seeds": list(row.seeds),
        "at": by_rate(FROC_RATES, mean=row.mean, spread=row.spread, low=row.low, high=row.high),
        "average_precision": {name: null_if_nan(value) for name, value in precision.items()},
    }


def _step(scored: Mapping[str, SeededRuns], before: str, after: str, seed: int) -> dict:
    step = compare_rows(scored[before], scored[after], seed)
    at = by_rate(FROC_RATES, difference=step.difference, low=step.low, high=step.high, p=step.p)
    return {"before": before, "after": after, "seeds": list(step.seeds), "at": at}


def _row_cells(row: dict | None) -> list[str]:
    if row is None:
        return ["–"] * (len(FROC_RATES) + 2)
    cells = {rate: _with_spread(numbers) for rate, numbers in row["at"].items()}
    low, high = (row["at"][INTERVAL_RATE][end] for end in ("low", "high"))
    if low is not None:
        cells[INTERVAL_RATE] += f" ({_percent(low)}–{_percent(high)})"
    return [_numbers(row["seeds"]), *cells.values(), _with_spread(row["average_precision"])]


def _step_cells(step: dict) -> list[str]:
    *points, p = step["at"][INTERVAL_RATE].values()
    difference, low, high = (_percent(value, "+") for value in points)
    step_name, shown_p = f"{step['after']} − {step['before']}", "–" if p is None else f"{p:.3f}"
    return [step_name, _numbers(step["seeds"]), difference, f"{low} … {high}", shown_p]


def _with_spread(numbers: dict) -> str:
    spread = "" if numbers["spread"] is None else f" ± {_percent(numbers['spread'])}"
    return _percent(numbers["mean"]) + spread


def _percent(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{100 * value:{sign}.1f}"


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _markdown(head: list[str], body: list[list[str]]) -> list[str]:
    first, *rest = ("| " + " | ".join(cells) + " |" for cells in (head, *body))
    return [first, "|---" * len(head) + "|", *rest]
