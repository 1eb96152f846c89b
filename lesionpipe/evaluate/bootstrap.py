"""Intervals of the numbers: a bootstrap that draws patients, because one patient's lesions resemble each other."""

from collections.abc import Callable

import numpy as np

from lesionpipe.evaluate.froc import Events, sensitivity

LEVEL = 0.95


def draw_patients(patients: int, samples: int, seed: int) -> np.ndarray:
    """How often each patient is drawn: (samples, patients) int64, each row sums to `patients`."""
    rng = np.random.default_rng(seed)
    if not patients:
        return np.zeros((0, 0), dtype=np.int64)
    drawn = (rng.integers(patients, size=patients) for _ in range(samples))
    return np.array([np.bincount(draw, minlength=patients) for draw in drawn], dtype=np.int64).reshape(-1, patients)


def resample(statistic: Callable[[np.ndarray], np.ndarray], draws: np.ndarray, values: int) -> np.ndarray:
    """`statistic` of the weights of each draw: (samples, values)."""
    return np.array([statistic(weights) for weights in draws], dtype=np.float64).reshape(-1, values)


def resample_sensitivity(events: Events, rates: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Sensitivity at `rates` in each draw: (samples, rates); NaN in a draw that holds no lesion."""
    return resample(lambda weights: sensitivity(events, rates, weights), draws, len(rates))


def interval(samples: np.ndarray, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis: low and high, each of the remaining shape.

    Draws where the number is undefined (NaN) are left out; NaN where none is left.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.full((2, *samples.shape[1:]), np.nan)
    defined = ~np.isnan(samples).all(axis=0)
    if defined.any():
        low[defined], high[defined] = np.nanquantile(samples[:, defined], tails, axis=0)
    return low, high


def two_sided_p(differences: np.ndarray) -> np.ndarray:
    """Two-sided p-value (values,) of "no difference" from resampled differences (samples, values).

    Twice the smaller share of draws on one side of zero, zero itself on both, with the observed sample counted as one
    draw so that it is never 0 (Davison & Hinkley 1997, sec. 4.2); NaN where no draw is defined.
    """
    defined = (~np.isnan(differences)).sum(axis=0)
    sides = np.minimum((differences <= 0).sum(axis=0), (differences >= 0).sum(axis=0))
    return np.where(defined > 0, np.minimum(1, 2 * (sides + 1) / (defined + 1)), np.nan)
