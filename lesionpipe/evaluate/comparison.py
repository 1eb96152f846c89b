"""Two detectors on the same slices: is the difference of their FROC more than chance? A paired bootstrap over patients.

Both are scored on the same draws of patients, so that what makes a draw easy or hard falls out of the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.evaluate.bootstrap import PatientDraws, percentile_interval, resample_sensitivity, two_sided_p
from lesionpipe.evaluate.froc import overlapping_pairs, pooled_events, sensitivity
from lesionpipe.evaluate.truth import Detections, Truth


@dataclass(frozen=True)
class Comparison:
    """Sensitivities of A and B at each rate, and B - A with its 95 % interval and two-sided p-value; NaN: undefined."""

    images: int
    lesions: int
    patients: int
    rates: tuple[float, ...]
    a: np.ndarray
    b: np.ndarray
    difference: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray


def paired_bootstrap(
    truth: Truth, a: Detections, b: Detections, rates: Sequence[float], iou: float, samples: int, seed: int
) -> Comparison:
    """Compare two sets of detections on the same truth by the published rule.

    Args:
        rates: false positives per image.
        samples: draws of patients; the same seed gives the same draws.
    """
    at = np.array(rates, dtype=np.float64)
    draws = PatientDraws(truth.patient_count, samples, seed)
    values, resampled = [], []
    for detections in (a, b):
        events = pooled_events(truth, detections, overlapping_pairs(truth, detections, iou))
        values.append(sensitivity(events, at))
        resampled.append(resample_sensitivity(events, at, draws))
    drawn = resampled[1] - resampled[0]
    sizes = len(truth.images), len(truth.lesion_images), truth.patient_count
    differences = values[1] - values[0], *percentile_interval(drawn), two_sided_p(drawn)
    return Comparison(*sizes, tuple(rates), *values, *differences)


def require_same_truth(a: Truth, b: Truth, names: tuple[str, str]) -> None:
    """Refuse to compare numbers of different sets.

    Raises:
        UserError: the evaluated slices or lesions differ.
    """
    if _contents(a) != _contents(b):
        sizes = [f"{len(truth.images)} slices, {len(truth.lesion_images)} lesions" for truth in (a, b)]
        raise UserError(
            f"evaluated on different sets ({names[0]}: {sizes[0]}; {names[1]}: {sizes[1]}); "
            f"compare runs with the same dataset.parts and lesions.noisy"
        )


def on_images_of(truth: Truth, detections: Detections, own: Truth) -> Detections:
    """Detections on the images of `own`, pointing at the same images of `truth`, whose order may differ."""
    places = pd.Index(truth.images, dtype=object).get_indexer(pd.Index(own.images, dtype=object))
    return Detections(places[detections.images], detections.boxes, detections.scores)


def _contents(truth: Truth) -> tuple[list[str], list[tuple]]:
    """Slices and lesions, whatever their order."""
    names = np.array(truth.images, dtype=object)[truth.lesion_images] if len(truth.lesion_images) else []
    return sorted(truth.images), sorted((n, *box) for n, box in zip(names, truth.lesion_boxes.tolist(), strict=True))
