"""Free-response ROC by the rule of the published DeepLesion numbers (3DCE, MULAN, AlignShift), and the strict count.

The rule: IoU with the +1-pixel convention on original pixels. A detection that overlaps no lesion enough is a false
positive. Any other hits every lesion that it overlaps and that is not yet hit; one that only meets lesions already hit
counts as nothing (as a false positive in the strict count). So the curve is made of two lists of *events*: a lesion is
hit at the highest score of its detections, and each false positive happens at its own score. Matching depends on the
image alone and is done once; a bootstrap over patients only weights the events.

Equal scores happen together, because no threshold tells them apart: the curve has a point after each distinct score and
is linear between points, so that the order of the input means nothing.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesionpipe.core import boxes
from lesionpipe.evaluate.truth import Detections, Truth

ADDED_PIXEL = 1.0  # width = x2 - x1 + 1
ROUNDING = 1e-12  # relative: 0.1 * 30 images counts as 3 false positives


class Matches(NamedTuple):
    """Pairs (p,) of a detection and a lesion of the same image whose IoU is enough."""

    detection: np.ndarray
    lesion: np.ndarray


@dataclass(frozen=True)
class Events:
    """What a curve is made of; scores fall. `*_patients` own the events, `*_of` (patients,) count per patient.

    Each false positive lies on the step of the curve that all events of its score make: between the hits and false
    positives `*_above` and those `*_with` this score or a higher one.
    """

    hit_patients: np.ndarray  # (hits,) of the lesions that are found, by their highest detection
    false_scores: np.ndarray  # (false positives,)
    false_patients: np.ndarray
    hits_above: np.ndarray  # (false positives,), as the next three: how many events
    hits_with: np.ndarray
    false_above: np.ndarray
    false_with: np.ndarray
    scores: np.ndarray  # (detections,) all
    lesions_of: np.ndarray
    images_of: np.ndarray


def overlapping_pairs(truth: Truth, detections: Detections, iou: float = 0.5) -> Matches:
    """All pairs with IoU >= `iou`."""
    found = pd.DataFrame({"image": detections.images, "detection": np.arange(len(detections.images))})
    lesions = pd.DataFrame({"image": truth.lesion_images, "lesion": np.arange(len(truth.lesion_images))})
    pairs = found.merge(lesions, on="image")
    detection, lesion = pairs["detection"].to_numpy(), pairs["lesion"].to_numpy()
    enough = boxes.iou(detections.boxes[detection], truth.lesion_boxes[lesion], ADDED_PIXEL) >= iou
    return Matches(detection[enough], lesion[enough])


def pooled_events(truth: Truth, detections: Detections, matches: Matches, lesions: np.ndarray | None = None) -> Events:
    """Events of the published rule; with `lesions` (lesions,) bool only these count, against all detections."""
    wanted = np.ones(len(truth.lesion_images), dtype=bool) if lesions is None else lesions
    matches = Matches(*(side[wanted[matches.lesion]] for side in matches))
    return _events(truth, detections, matches, wanted, useful=matches.detection)


def strict_events(truth: Truth, detections: Detections, matches: Matches) -> Events:
    """Events of the strict count: a detection that only meets lesions already hit is a false positive too.

    Of equal scores on an image the box with the smaller x1 (y1, x2, y2) comes first, whatever the order of the input.
    """
    x1, y1, x2, y2 = detections.boxes[matches.detection].T
    rank = np.empty(len(matches.detection), dtype=np.int64)
    rank[np.lexsort((matches.detection, y2, x2, y1, x1, -detections.scores[matches.detection]))] = np.arange(len(rank))
    first = np.full(len(truth.lesion_images), len(rank), dtype=np.int64)
    np.minimum.at(first, matches.lesion, rank)
    useful = matches.detection[rank == first[matches.lesion]]
    return _events(truth, detections, matches, np.ones(len(first), dtype=bool), useful)


def sensitivity(events: Events, rates: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Sensitivity (rates,) at false positives per image: linear between the curve's points, at an exactly reached rate
    the last point that has it, beyond the end of the curve the last of all; the line starts at (0, 0).

    The last point is what the published code takes, whose interpolation comes from SciPy; a threshold gives the same.
    NaN without lesions or images. `weights` (patients,) are how often each patient counts; none: once.
    """
    weights = np.ones(len(events.images_of), dtype=np.int64) if weights is None else weights
    lesions, images = weights @ events.lesions_of, weights @ events.images_of
    if lesions == 0 or images == 0:
        return np.full(len(rates), np.nan)
    hits = np.concatenate([[0], np.cumsum(weights[events.hit_patients])])
    false = np.zeros(len(events.false_scores) + 1, dtype=np.int64)
    np.cumsum(weights[events.false_patients], out=false[1:])
    target = np.asarray(rates) * images
    excess = np.searchsorted(false, target * (1 + ROUNDING), "right") - 1  # the first false positive too many
    inside = excess < len(events.false_scores)
    step = excess[inside]
    above, before = hits[events.hits_above[step]], false[events.false_above[step]]
    share = np.clip((target[inside] - before) / (false[events.false_with[step]] - before), 0, 1)
    found = np.full(len(target), hits[-1], dtype=np.float64)
    found[inside] = above + share * (hits[events.hits_with[step]] - above)
    return found / lesions


def thresholds(events: Events, rates: np.ndarray) -> np.ndarray:
    """Lowest scores (rates,) that keep at most so many false positives per image; NaN where the highest keeps more."""
    allowed = np.floor(np.asarray(rates) * events.images_of.sum() * (1 + ROUNDING)).astype(np.int64)
    excess = np.concatenate([events.false_scores, [-np.inf]])[np.minimum(allowed, len(events.false_scores))]
    kept = np.searchsorted(-events.scores, -excess, "left")  # detections with a score above the first one too many
    return np.concatenate([[np.nan], events.scores])[kept]


def _events(truth: Truth, detections: Detections, matches: Matches, wanted: np.ndarray, useful: np.ndarray) -> Events:
    """Events of the lesions `wanted` (lesions,) bool where all detections but the `useful` ones are false positives."""
    false = np.ones(len(detections.scores), dtype=bool)
    false[useful] = False
    best = np.full(len(wanted), -np.inf)  # the score at which each lesion is hit
    np.maximum.at(best, matches.lesion, detections.scores[matches.detection])
    hit = np.flatnonzero(np.isfinite(best))
    owner = truth.patients[truth.lesion_images]
    hit_scores, hit_patients = _falling(best[hit], owner[hit])
    false_scores, false_patients = _falling(detections.scores[false], truth.patients[detections.images[false]])
    steps = [np.searchsorted(-s, -false_scores, side) for s in (hit_scores, false_scores) for side in ("left", "right")]
    counts = (np.bincount(patients, minlength=truth.patient_count) for patients in (owner[wanted], truth.patients))
    return Events(hit_patients, false_scores, false_patients, *steps, -np.sort(-detections.scores), *counts)


def _falling(scores: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, kind="stable")
    return scores[order], patients[order]
