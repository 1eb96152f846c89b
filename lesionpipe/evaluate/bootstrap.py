"""Intervals of the numbers: a bootstrap that draws patients, because one patient's lesions resemble each other."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from lesionpipe.evaluate.froc import Events, sensitivity

INTERVAL_LEVEL = 0.95


@dataclass(frozen=True)
class PatientDraws:
    """How often each patient is drawn with replacement: (patients,) int64 per draw, made anew in each pass."""

    patients: int
    samples: int
    seed: int

    def __iter__(self) -> Iterator[np.ndarray]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.samples if self.patients else 0):
            yield np.bincount(rng.integers(self.patients, size=self.patients), minlength=self.patients)


def resample_sensitivity(events: Events, rates: np.ndarray, draws: Iterable[np.ndarray]) -> np.ndarray:
    """Sensitivity at `rates` in each draw: (samples, rates); NaN in a draw that holds no lesion."""
    return np.array([sensitivity(events, rates, weights) for weights in draws]).reshape(-1, len(rates))


def percentile_interval(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval over the first axis, without undefined draws (NaN): low, high; NaN where no draw is left."""
    low, high = np.full((2, *samples.shape[1:]), np.nan)
    defined = ~np.isnan(samples).all(axis=0)
    if defined.any():
        tails = [(1 - INTERVAL_LEVEL) / 2, (1 + INTERVAL_LEVEL) / 2]
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
