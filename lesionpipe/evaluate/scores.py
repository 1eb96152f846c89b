"""The numbers of one evaluated set, with their intervals, and the flat form that `dvc metrics diff` shows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesionpipe.evaluate.bootstrap import interval, resample, resample_sensitivity
from lesionpipe.evaluate.froc import Events, match, pooled_events, sensitivity, strict_events, thresholds
from lesionpipe.evaluate.precision import rank_detections
from lesionpipe.evaluate.truth import Detections, Truth

MEAN_RATES = np.array([0.5, 1, 2, 4])  # false positives per image of the mean sensitivity
MEAN_NAME = "mean_0.5_to_4"


@dataclass(frozen=True)
class Number:
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
    sensitivity: tuple[Number, ...]
    strict: tuple[float, ...]
    thresholds: tuple[float, ...]
    mean: Number
    average_precision: Number
    events: Events  # of the published rule, for curves
    strict_events: Events


def score(truth: Truth, detections: Detections, rates: Sequence[float], iou: float, draws: np.ndarray) -> Scores:
    """All numbers of one set by the published rule (`froc`); the draws of patients (`bootstrap`) give the intervals."""
    at = np.array(rates, dtype=np.float64)
    matches = match(truth, detections, iou)
    events, strict = pooled_events(truth, detections, matches), strict_events(truth, detections, matches)
    ranking = rank_detections(truth, detections, iou)
    resampled = resample_sensitivity(events, np.concatenate([at, MEAN_RATES]), draws)
    precisions = resample(lambda weights: ranking.area(weights), draws, 1)
    return Scores(
        images=len(truth.images),
        lesions=len(truth.lesion_images),
        patients=truth.patient_count,
        detections=len(detections.scores),
        iou=iou,
        rates=tuple(float(rate) for rate in rates),
        sensitivity=numbers(sensitivity(events, at), resampled[:, : len(at)]),
        strict=tuple(sensitivity(strict, at).tolist()),
        thresholds=tuple(thresholds(events, at).tolist()),
        mean=numbers(_mean(sensitivity(events, MEAN_RATES)), _mean(resampled[:, len(at) :]))[0],
        average_precision=numbers(np.array([ranking.area()]), precisions)[0],
        events=events,
        strict_events=strict,
    )


def numbers(values: np.ndarray, resampled: np.ndarray) -> tuple[Number, ...]:
    """Values (n,) with the intervals of their resampled values (samples, n)."""
    low, high = interval(resampled)
    return tuple(Number(*map(float, row)) for row in zip(values, low, high, strict=True))


def flat(scores: Scores) -> dict[str, float | int | None]:
    """Readable flat keys, the headline first; undefined numbers are None."""
    names = [f"{rate:g}" for rate in scores.rates]
    precision = f"map_{100 * scores.iou:.0f}"
    result: dict[str, float | int | None] = {
        "images": scores.images,
        "lesions": scores.lesions,
        "patients": scores.patients,
        "detections": scores.detections,
    }
    result |= {f"sensitivity_at_{name}": n.value for name, n in zip(names, scores.sensitivity, strict=True)}
    result |= {MEAN_NAME: scores.mean.value, precision: scores.average_precision.value}
    result |= {f"threshold_at_{name}": value for name, value in zip(names, scores.thresholds, strict=True)}
    result |= {f"strict_sensitivity_at_{name}": value for name, value in zip(names, scores.strict, strict=True)}
    bounded = {f"sensitivity_at_{name}": n for name, n in zip(names, scores.sensitivity, strict=True)}
    for name, number in {**bounded, MEAN_NAME: scores.mean, precision: scores.average_precision}.items():
        result |= {f"{name}_low": number.low, f"{name}_high": number.high}
    return {key: defined(value) for key, value in result.items()}


def defined(value: float) -> float | None:
    """None for NaN: JSON has no NaN."""
    return None if np.isnan(value) else value


def _mean(sensitivities: np.ndarray) -> np.ndarray:
    return sensitivities.mean(axis=-1, keepdims=True)
