"""The numbers of one evaluated set, with their intervals, and the flat form that `dvc metrics diff` shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesionpipe.data.average_precision import Ranking, first_hits, ranking
from lesionpipe.evaluate import froc
from lesionpipe.evaluate.bootstrap import percentile_interval, resample_sensitivity
from lesionpipe.evaluate.truth import Detections, Truth

MEAN_RATES = np.array([0.5, 1, 2, 4])  # false positives per image of the mean sensitivity
MEAN_NAME = "mean_0.5_to_4"


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; NaN: undefined."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """Numbers of one set; the sequences go with `rates`, false positives per image."""

    sizes: dict[str, int]  # how many images, lesions, patients, detections
    iou: float
    rates: tuple[float, ...]
    sensitivity: tuple[Estimate, ...]
    strict: tuple[float, ...]
    thresholds: tuple[float, ...]
    mean: Estimate
    average_precision: Estimate
    matches: froc.Matches
    events: froc.Events  # of the published rule, for curves
    strict_events: froc.Events


def score_detections(
    truth: Truth, detections: Detections, rates: Sequence[float], iou: float, draws: Iterable[np.ndarray]
) -> Scores:
    """All numbers of one set by the published rule (`froc`); the draws of patients (`bootstrap`) give the intervals."""
    pairs = froc.overlapping_pairs(truth, detections, iou)
    events = froc.pooled_events(truth, detections, pairs)
    strict_events = froc.strict_events(truth, detections, pairs)
    precision = rank_detections(truth, detections, iou)
    resampled = resample_sensitivity(events, np.concatenate([rates, MEAN_RATES]), draws)
    resampled_mean = resampled[:, len(rates) :].mean(axis=1, keepdims=True)
    resampled_precision = np.array([precision.area(weights) for weights in draws]).reshape(-1, 1)
    return Scores(
        sizes=truth.sizes | {"detections": len(detections.scores)},
        iou=iou,
        rates=tuple(rates),
        sensitivity=_estimates(froc.sensitivity(events, rates), resampled[:, : len(rates)]),
        strict=tuple(froc.sensitivity(strict_events, rates).tolist()),
        thresholds=tuple(froc.thresholds(events, rates).tolist()),
        mean=_estimates([froc.sensitivity(events, MEAN_RATES).mean()], resampled_mean)[0],
        average_precision=_estimates([precision.area()], resampled_precision)[0],
        matches=pairs,
        events=events,
        strict_events=strict_events,
    )


def rank_detections(truth: Truth, detections: Detections, iou: float = 0.5) -> Ranking:
    """Which detections take a lesion, for average precision; patients are the owners."""
    found_on, lesions_on = (
        pd.Series(images).groupby(images).indices for images in (detections.images, truth.lesion_images)
    )
    hits = np.zeros(len(detections.scores), dtype=bool)
    for image in found_on.keys() & lesions_on.keys():
        here, lesions = found_on[image], truth.lesion_boxes[lesions_on[image]]
        hits[here] = first_hits(detections.boxes[here], detections.scores[here], lesions, iou)
    lesions_of = np.bincount(truth.patients[truth.lesion_images], minlength=truth.patient_count)
    return ranking(detections.scores, hits, truth.patients[detections.images], lesions_of)


def flat_metrics(scores: Scores) -> dict[str, float | int | None]:
    """Readable flat keys, the headline first; undefined numbers are None. Keys change with the rates alone."""
    named = [f"{rate:g}" for rate in scores.rates]
    estimates = {f"sensitivity_at_{name}": e for name, e in zip(named, scores.sensitivity, strict=True)}
    estimates |= {MEAN_NAME: scores.mean, "average_precision": scores.average_precision}
    result = scores.sizes | {"iou": scores.iou} | {name: estimate.value for name, estimate in estimates.items()}
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


def percent(value: float | None, sign: str = "") -> str:
    """A share for people, with one decimal; a dash where undefined."""
    return "–" if value is None or np.isnan(value) else f"{100 * value:{sign}.1f}"


def _estimates(values: Iterable[float], resampled: np.ndarray) -> tuple[Estimate, ...]:
    """Values (n,) with the intervals of their resampled values (samples, n)."""
    low, high = percentile_interval(resampled)
    return tuple(Estimate(*map(float, row)) for row in zip(values, low, high, strict=True))
