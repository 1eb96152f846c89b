"""Detectors told apart from chance: a single run of each, or several trainings that differ in `train.seed` alone.

Two things are chance: which patients are in the test set, and how a training went. The number of a row (of an ablation;
of a comparison) is the mean of its runs; its interval is that of a bootstrap that draws both. Each draw takes patients
with replacement, the same for every run, and averages all runs on them. It also takes as many seeds as there are with
replacement, and adds by how much the mean of their runs, on all patients, lies off the mean of all runs. The mean of K
out of K seeds varies only (K - 1) / K as much as that of K new trainings: the deviation is multiplied by
sqrt(K / (K - 1)) (the rescaled bootstrap of Rao & Wu 1988). With one seed only patients are drawn.

A step from one row to the next is the same for the differences of the runs of equal seed, so that what makes a draw
easy or hard falls out of it. Scoring the drawn seeds on the drawn patients instead (the crossed bootstrap of Owen 2007)
counts the chance of one run on one patient three times, here it counts twice; how far to trust either: docs/evaluate.md
(by simulation 0 to 2 in 100 steps without effect have p < 0.05 when crossed, 2 to 7 here).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lesionpipe.evaluate.bootstrap import percentile_interval, resample_sensitivity, two_sided_p
from lesionpipe.evaluate.froc import overlapping_pairs, pooled_events, sensitivity
from lesionpipe.evaluate.scores import rank_detections
from lesionpipe.evaluate.truth import Detections, Truth


@dataclass(frozen=True)
class SeededRuns:
    """Scores of one row's runs; the order is that of `seeds`."""

    seeds: tuple[int, ...]
    sensitivities: np.ndarray  # (seeds, rates)
    average_precisions: np.ndarray  # (seeds,)
    resampled: np.ndarray  # (draws of patients, seeds, rates) sensitivities


@dataclass(frozen=True)
class RowSummary:
    """Mean over seeds, standard deviation between them (NaN for one seed) and 95 % interval of the mean, per rate."""

    seeds: tuple[int, ...]
    mean: np.ndarray  # (rates,), as all of these
    spread: np.ndarray
    low: np.ndarray
    high: np.ndarray
    average_precision: float
    average_precision_spread: float


@dataclass(frozen=True)
class StepTest:
    """Mean difference of two rows over the seeds that both have, 95 % interval and two-sided p-value, per rate."""

    seeds: tuple[int, ...]
    difference: np.ndarray  # (rates,), as all of these
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def score_runs(
    truth: Truth, runs: Mapping[int, Detections], rates: Sequence[float], iou: float, draws: Iterable[np.ndarray]
) -> SeededRuns:
    """Score a row's runs, given by seed, by the published rule (`froc`) on draws of patients that all rows share."""
    events = [pooled_events(truth, found, overlapping_pairs(truth, found, iou)) for found in runs.values()]
    return SeededRuns(
        tuple(runs),
        np.array([sensitivity(e, rates) for e in events]),
        np.array([rank_detections(truth, found, iou).area() for found in runs.values()]),
        np.stack([resample_sensitivity(e, rates, draws) for e in events], axis=1),
    )


def summarise_row(runs: SeededRuns, seed: int) -> RowSummary:
    """The numbers of a row in the table; `seed` is that of the draws of training seeds."""
    drawn = _draw_both(runs.resampled, runs.sensitivities, seed)
    of_rates = runs.sensitivities.mean(axis=0), _spread(runs.sensitivities)
    precision = float(runs.average_precisions.mean()), float(_spread(runs.average_precisions))
    return RowSummary(runs.seeds, *of_rates, *percentile_interval(np.clip(drawn, 0, 1)), *precision)


def compare_rows(before: SeededRuns, after: SeededRuns, seed: int) -> StepTest:
    """`after` - `before`, scored at the same rates on the same draws, by equal seeds; all NaN where they share none."""
    common = tuple(s for s in before.seeds if s in after.seeds)
    if not common:
        nothing = np.full(before.sensitivities.shape[1], np.nan)
        return StepTest(common, nothing, nothing, nothing, nothing)
    first, second = ([runs.seeds.index(s) for s in common] for runs in (before, after))
    differences = after.sensitivities[second] - before.sensitivities[first]
    drawn = _draw_both(after.resampled[:, second] - before.resampled[:, first], differences, seed)
    drawn = np.round(drawn, 12)  # draws of no difference are exactly 0, on both sides of it
    return StepTest(common, differences.mean(axis=0), *percentile_interval(drawn), two_sided_p(drawn))


def draw_seeds(seeds: int, samples: int, seed: int) -> np.ndarray:
    """How often each of `seeds` training seeds is drawn when as many are drawn with replacement: (samples, seeds) int.

    The stream of random numbers is another than that of the patients.
    """
    rng = np.random.default_rng((seed, seeds))
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=samples)


def deviation_of_drawn_seeds(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of the drawn seeds less the mean of all, rescaled (see the module); 0 for one seed: (samples, values).

    `values` (seeds, values) are those of the runs on all patients, `counts` (samples, seeds) how often each is drawn.
    """
    seeds = len(values)
    return counts @ (values - values.mean(axis=0)) / np.sqrt(seeds * max(1, seeds - 1))


def _draw_both(resampled: np.ndarray, values: np.ndarray, seed: int) -> np.ndarray:
    """Means over seeds under draws of patients and seeds, (samples, values).

    `resampled` (samples, seeds, values) are on drawn patients, `values` (seeds, values) on all.
    """
    counts = draw_seeds(len(values), len(resampled), seed)
    return resampled.mean(axis=1) + deviation_of_drawn_seeds(values, counts)


def _spread(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the first axis, of the population that the seeds are a sample of; NaN for one seed."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else np.full(values.shape[1:], np.nan)
