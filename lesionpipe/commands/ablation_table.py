"""The scores of the ablation's finished runs, read from DVC: as they stand in JSON, and as Markdown for people."""

from collections.abc import Mapping, Sequence

from lesionpipe.commands.scoring import FROC_RATES
from lesionpipe.evaluate.bootstrap import PatientDraws
from lesionpipe.evaluate.comparison import SeededRuns, compare_rows, score_runs, summarise_row
from lesionpipe.evaluate.runs import open_runs
from lesionpipe.evaluate.scores import by_rate, null_if_nan, percent
from lesionpipe.params import Params

SPLIT = "test"
INTERVAL_RATE = "4"  # false positives per image at which the Markdown shows intervals of rows
STEP_RATES = ("0.5", "4")  # and steps; the calibration is said to help at low ones (paper, sec. 3.2)


def score_rows(rows: Mapping[str, str | None], finished: Mapping[str, Mapping[int, str]], params: Params) -> dict:
    """The finished runs, all judged by today's `evaluate` and `lesions.noisy`, and the steps between rows.

    Sensitivities are shares, keyed by the rate; None where a number is undefined or no run of a row is finished.
    `rows` names the row that each is compared with, `finished` holds the Git reference (or the detections.csv) of each
    finished run by row and seed. A UserError where detections are in no cache, or two runs were evaluated on different
    slices or lesions.
    """
    chosen, references = params.evaluate, [reference for runs in finished.values() for reference in runs.values()]
    truth, found = open_runs(references, SPLIT, params.dataset.parts, params.lesions.noisy)
    opened = iter(found)
    detections = {row: {seed: next(opened) for seed in runs} for row, runs in finished.items()}
    draws = PatientDraws(truth.patient_count, chosen.bootstrap, chosen.seed)
    scored = {row: score_runs(truth, runs, FROC_RATES, chosen.iou, draws) for row, runs in detections.items()}
    return {
        "split": SPLIT,
        **truth.sizes,
        "iou": chosen.iou,
        "noisy": params.lesions.noisy,
        "draws": chosen.bootstrap,
        "rows": {row: _row(scored[row], chosen.seed) if row in scored else None for row in rows},
        "steps": [
            _step(scored, before, after, chosen.seed)
            for after, before in rows.items()
            if before in scored and after in scored
        ],
    }


def ablation_table(scores: dict) -> str:
    """Two Markdown tables in percent, rows and steps; a dash where a row isn't finished or a number undefined."""
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
        rule = f"Steps in points, paired over patients and seeds ({scores['draws']} draws), 95 % interval in brackets"
        head = ["step", "seeds", *(name for rate in STEP_RATES for name in (f"{rate} FP", "p"))]
        lines += ["", rule, "", *_markdown(head, [_step_cells(step) for step in scores["steps"]])]
    return "\n".join(lines)


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
        cells[INTERVAL_RATE] += f" ({percent(low)}–{percent(high)})"
    return [_numbers(row["seeds"]), *cells.values(), _with_spread(row["average_precision"])]


def _step_cells(step: dict) -> list[str]:
    cells = [f"{step['after']} − {step['before']}", _numbers(step["seeds"])]
    for rate in STEP_RATES:
        *points, p = step["at"][rate].values()
        difference, low, high = (percent(value, "+") for value in points)
        cells += [f"{difference} ({low} … {high})", "–" if p is None else f"{p:.3f}"]
    return cells


def _with_spread(numbers: dict) -> str:
    spread = "" if numbers["spread"] is None else f" ± {percent(numbers['spread'])}"
    return percent(numbers["mean"]) + spread


def _numbers(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def _markdown(head: list[str], body: list[list[str]]) -> list[str]:
    first, *rest = ("| " + " | ".join(cells) + " |" for cells in (head, *body))
    return [first, "|---" * len(head) + "|", *rest]
