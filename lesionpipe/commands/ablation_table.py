"""The table of the ablation: scores of its finished runs, read from DVC, as Markdown for people and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from lesionpipe.commands.froc import FROC_RATES
from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.comparison import on_images_of, require_same_truth
from lesionpipe.evaluate.revisions import open_run
from lesionpipe.evaluate.scores import by_rate, null_if_nan
from lesionpipe.evaluate.seeds import RowSummary, StepTest, compare_rows, score_runs, summarise_row
from lesionpipe.evaluate.truth import Detections, Truth
from lesionpipe.params import Params

SPLIT = "test"
INTERVAL_RATE = 4.0  # false positives per image at which the Markdown shows intervals and steps


@dataclass(frozen=True)
class AblationTable:
    """Rows in order, None where no run is finished, and steps by (row before, row); see `evaluate.seeds`."""

    truth: Truth
    iou: float
    noisy: str
    draws: int
    rows: dict[str, RowSummary | None]
    steps: dict[tuple[str, str], StepTest]


def score_rows(rows: Sequence[str], finished: Mapping[str, Mapping[int, str]], params: Params) -> AblationTable:
    """Score the finished runs alike, by today's `evaluate` and `lesions.noisy`.

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
    steps = [(a, b) for a, b in pairwise(rows) if a in scored and b in scored]
    return AblationTable(
        truth,
        chosen.iou,
        params.lesions.noisy,
        chosen.bootstrap,
        {row: summarise_row(scored[row], chosen.seed) if row in scored else None for row in rows},
        {(a, b): compare_rows(scored[a], scored[b], chosen.seed) for a, b in steps},
    )


def ablation_json(table: AblationTable) -> dict:
    """Numbers keyed by the rate, sensitivities as shares; null where undefined or where no run is finished."""
    return {
        "split": SPLIT,
        "images": len(table.truth.images),
        "lesions": len(table.truth.lesion_images),
        "patients": table.truth.patient_count,
        "iou": table.iou,
        "noisy": table.noisy,
        "draws": table.draws,
        "rows": {row: summary and _row_json(summary) for row, summary in table.rows.items()},
        "steps": [
            {"before": before, "after": after, "seeds": list(step.seeds)}
            | {"at": by_rate(FROC_RATES, difference=step.difference, low=step.low, high=step.high, p=step.p)}
            for (before, after), step in table.steps.items()
        ],
    }


def ablation_table(table: AblationTable) -> str:
    """Two Markdown tables in percent, rows and steps between them, each under a line that says what it holds.

    A dash stands where a row isn't finished or a number undefined.
    """
    at = FROC_RATES.index(INTERVAL_RATE)
    head = ["row", "seeds", *(f"{rate:g} FP" for rate in FROC_RATES), f"AP@{table.iou:g}"]
    body = [[row, *_row_cells(summary, at)] for row, summary in table.rows.items()]
    sizes = (
        f"{len(table.truth.lesion_images)} lesions on {len(table.truth.images)} slices of "
        f"{table.truth.patient_count} patients"
    )
    lines = [
        f"Sensitivity in % on {SPLIT} ({sizes}, IoU {table.iou:g}, lesions.noisy {table.noisy}): mean over seeds "
        f"± standard deviation between seeds, 95 % interval over patients and seeds in brackets",
        "",
        *_markdown(head, body),
    ]
    if table.steps:
        steps = [_step_cells(*pair, step, at) for pair, step in table.steps.items()]
        rule = f"Steps at {INTERVAL_RATE:g} FP, in points, paired over patients and seeds ({table.draws} draws)"
        lines += ["", rule, "", *_markdown(["step", "seeds", "difference", "95 % interval", "p"], steps)]
    return "\n".join(lines)


def _open_runs(
    finished: Mapping[str, Mapping[int, str]], params: Params
) -> tuple[Truth, dict[str, dict[int, Detections]]]:
    """What all runs were evaluated on, and what each found, by row and seed."""
    first, first_reference, found = None, "", {}
    for row, runs in finished.items():
        for seed, reference in runs.items():
            truth, detections = open_run(reference, SPLIT, params.dataset.parts, params.lesions.noisy)
            if first is None:
                first, first_reference = truth, reference
            require_same_truth(first, truth, (first_reference, reference))
            found.setdefault(row, {})[seed] = on_images_of(first, detections, truth)
    return first, found


def _row_json(summary: RowSummary) -> dict:
    return {
        "seeds": list(summary.seeds),
        "at": by_rate(FROC_RATES, mean=summary.mean, spread=summary.spread, low=summary.low, high=summary.high),
        "average_precision": {
            "mean": null_if_nan(summary.average_precision),
            "spread": null_if_nan(summary.average_precision_spread),
        },
    }


def _row_cells(summary: RowSummary | None, at: int) -> list[str]:
    if summary is None:
        return ["–"] * (len(FROC_RATES) + 2)
    cells = [_with_spread(*pair) for pair in zip(summary.mean, summary.spread, strict=True)]
    cells[at] += f" ({_percent(summary.low[at])}–{_percent(summary.high[at])})" if ~np.isnan(summary.low[at]) else ""
    precision = _with_spread(summary.average_precision, summary.average_precision_spread)
    return [_numbers(summary.seeds), *cells, precision]


def _step_cells(before: str, after: str, step: StepTest, at: int) -> list[str]:
    difference, low, high = (_percent(v[at], "+") for v in (step.difference, step.low, step.high))
    p = "–" if np.isnan(step.p[at]) else f"{step.p[at]:.3f}"
    return [f"{after} − {before}", _numbers(step.seeds), difference, f"{low} … {high}", p]


def _with_spread(value: float, spread: float) -> str:
    return _percent(value) + ("" if np.isnan(spread) else f" ± {_percent(spread)}")


def _percent(value: float, sign: str = "") -> str:
    return "–" if np.isnan(value) else f"{100 * value:{sign}.1f}"


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _markdown(head: list[str], body: list[list[str]]) -> list[str]:
    first, *rest = ("| " + " | ".join(cells) + " |" for cells in (head, *body))
    return [first, "|---" * len(head) + "|", *rest]
