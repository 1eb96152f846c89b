"""The numbers of one evaluated set, with their intervals, and the flat form that `dvc metrics diff` shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from lesionpipe.evaluate.bootstrap import percentile_interval, resample, resample_sensitivity
from lesionpipe.evaluate.froc import Events, overlapping_pairs, pooled_events, sensitivity, strict_events, thresholds
from lesionpipe.evaluate.precision import rank_detections
from lesionpipe.evaluate.truth import Detections, Truth

MEAN_RATES = np.array([0.5, 1, 2, 4])  # false positives per image of the mean sensitivity
MEAN_NAME = "mean_0.5_to_4"
SET_SIZES = ("images", "lesions", "patients", "detections")  # counts in `Scores`


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; NaN: undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Numbers of one set; the sequences go with `rates`, false positives per image."""

    images: int
    lesions: int
    patients: int
    detections: int
    iou: float
    rates: tuple[float, ...]
    sensitivity: tuple[Estimate, ...]
    strict: tuple[float, ...]
    thresholds: tuple[float, ...]
    mean: Estimate
    average_precision: Estimate
    events: Events  # of the published rule, for curves
    strict_events: Events


def score_detections(
    truth: Truth, detections: Detections, rates: Sequence[float], iou: float, draws: Iterable[np.ndarray]
) -> Scores:
    """All numbers of one set by the published rule (`froc`); the draws of patients (`bootstrap`) give the intervals."""
    at = np.array(rates, dtype=np.float64)
    pairs = overlapping_pairs(truth, detections, iou)
    events, strict = pooled_events(truth, detections, pairs), strict_events(truth, detections, pairs)
    ranking = rank_detections(truth, detections, iou)
    resampled = resample_sensitivity(events, np.concatenate([at, MEAN_RATES]), draws)
    return Scores(
        images=len(truth.images),
        lesions=len(truth.lesion_images),
        patients=truth.patient_count,
        detections=len(detections.scores),
        iou=iou,
        rates=tuple(float(rate) for rate in rates),
        sensitivity=_estimates(sensitivity(events, at), resampled[:, : len(at)]),
        strict=tuple(sensitivity(strict, at).tolist()),
        thresholds=tuple(thresholds(events, at).tolist()),
        mean=_estimates(_mean(sensitivity(events, MEAN_RATES)), _mean(resampled[:, len(at) :]))[0],
        average_precision=_estimates(np.array([ranking.area()]), resample(ranking.area, draws, 1))[0],
        events=events,
        strict_events=strict,
    )


def flat_metrics(scores: Scores) -> dict[str, float | int | None]:
    """Readable flat keys, the headline first; undefined numbers are None. Keys change with the rates alone."""
    named = [f"{rate:g}" for rate in scores.rates]
    estimates = {f"sensitivity_at_{name}": e for name, e in zip(named, scores.sensitivity, strict=True)}
    estimates |= {MEAN_NAME: scores.mean, "average_precision": scores.average_precision}
    result = {name: getattr(scores, name) for name in (*SET_SIZES, "iou")}
    result |= {name: estimate.value for name, estimate in estimates.items()}
    result |= {f"threshold_at_{name}": value for name, value in zip(named, scores.thresholds, strict=True)}
    result |= {f"strict_sensitivity_at_{name}": value for name, value in zip(named, scores.strict, strict=True)}
    for name, estimate in estimates.items():
        result |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return {key: null_if_nan(value) for key, value in result.items()}


def by_rate(rates: Sequence[float], **columns: Iterable[float]) -> dict[str, dict[str, float | None]]:
    """For JSON: the columns' numbers at each rate, keyed by the rate; None where undefined."""
    rows = zip(rates, *columns.values(), strict=True)
    return {f"{rate:g}": {n: null_if_nan(float(v)) for n, v in zip(columns, row, strict=True)} for rate, *row in rows}


def null_if_nan(value: float) -> float | None:
    """None for NaN: JSON has no NaN."""
    return None if np.isnan(value) else value


def _estimates(values: np.ndarray, resampled: np.ndarray) -> tuple[Estimate, ...]:
    """Values (n,) with the intervals of their resampled values (samples, n)."""
    low, high = percentile_interval(resampled)
    return tuple(Estimate(*map(float, row)) for row in zip(values, low, high, strict=True))


def _mean(sensitivities: np.ndarray) -> np.ndarray:
    return sensitivities.mean(axis=-1, keepdims=True)
