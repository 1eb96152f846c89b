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
from functools import cached_property
from typing import NamedTuple

import numpy as np

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
    """What a curve is made of; scores fall. `*_patients` own the events, `*_of` (patients,) count per patient."""

    hit_scores: np.ndarray  # (hits,) lesions that are found, at their highest detection
    hit_patients: np.ndarray
    false_scores: np.ndarray  # (false positives,)
    false_patients: np.ndarray
    scores: np.ndarray  # (detections,) all
    lesions_of: np.ndarray
    images_of: np.ndarray

    @cached_property
    def hits_above(self) -> np.ndarray:
        """(false positives,) hits with a higher score than this false positive."""
        return len(self.hit_scores) - np.searchsorted(self.hit_scores[::-1], self.false_scores, "right")

    @cached_property
    def hits_with(self) -> np.ndarray:
        """(false positives,) hits with at least the score of this false positive."""
        return len(self.hit_scores) - np.searchsorted(self.hit_scores[::-1], self.false_scores, "left")


def overlapping_pairs(truth: Truth, detections: Detections, iou: float = 0.5) -> Matches:
    """All pairs with IoU >= `iou`."""
    order = np.argsort(truth.lesion_images, kind="stable")
    count = np.bincount(truth.lesion_images, minlength=len(truth.images))
    first = np.cumsum(count) - count
    pairs = count[detections.images]  # lesions that each detection is compared with
    detection = np.repeat(np.arange(len(pairs)), pairs)
    within = np.arange(len(detection)) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    lesion = order[first[detections.images[detection]] + within]
    enough = boxes.iou(detections.boxes[detection], truth.lesion_boxes[lesion], ADDED_PIXEL) >= iou
    return Matches(detection[enough], lesion[enough])


def pooled_events(truth: Truth, detections: Detections, matches: Matches, lesions: np.ndarray | None = None) -> Events:
    """Events of the published rule; with `lesions` (lesions,) bool only these count, against all detections."""
    wanted = np.ones(len(truth.lesion_images), dtype=bool) if lesions is None else lesions
    matches = Matches(*(side[wanted[matches.lesion]] for side in matches))
    overlapping = np.zeros(len(detections.scores), dtype=bool)
    overlapping[matches.detection] = True
    return _events(truth, detections, matches, wanted, ~overlapping)


def strict_events(truth: Truth, detections: Detections, matches: Matches) -> Events:
    """Events of the strict count: a detection that only meets lesions already hit is a false positive too.

    Of equal scores on an image the box with the smaller x1 (y1, x2, y2) comes first, whatever the order of the input.
    """
    x1, y1, x2, y2 = detections.boxes[matches.detection].T
    rank = np.empty(len(matches.detection), dtype=np.int64)
    rank[np.lexsort((matches.detection, y2, x2, y1, x1, -detections.scores[matches.detection]))] = np.arange(len(rank))
    first = np.full(len(truth.lesion_images), len(rank), dtype=np.int64)
    np.minimum.at(first, matches.lesion, rank)
    useful = np.zeros(len(detections.scores), dtype=bool)
    useful[matches.detection[rank == first[matches.lesion]]] = True
    return _events(truth, detections, matches, np.ones(len(first), dtype=bool), ~useful)


def sensitivity(events: Events, rates: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Sensitivity (rates,) at false positives per image: linear between the curve's points, at an exactly reached rate
    the last point that has it, beyond the end of the curve the last of all; the line starts at (0, 0).

    The last point is what the published code takes, whose interpolation comes from SciPy; a threshold gives the same.

    Args:
        weights: how often each patient counts, (patients,); none: once.

    Returns NaN where there are no lesions or no images.
    """
    weights = np.ones(len(events.images_of), dtype=np.int64) if weights is None else weights
    lesions, images = weights @ events.lesions_of, weights @ events.images_of
    if lesions == 0 or images == 0:
        return np.full(len(rates), np.nan)
    hits = np.concatenate([[0], np.cumsum(weights[events.hit_patients])])
    false = np.cumsum(weights[events.false_patients])
    target = np.asarray(rates) * images
    excess = np.searchsorted(false, target * (1 + ROUNDING), "right")  # the first false positive too many
    found = np.full(len(target), hits[-1], dtype=np.float64)
    inside = excess < len(false)
    found[inside] = _hits_at(events, hits, false, target[inside], excess[inside])
    return found / lesions


def thresholds(events: Events, rates: np.ndarray) -> np.ndarray:
    """Score (rates,) at or above which to keep detections for at most that many false positives per image.

    It is the lowest score that does so; NaN where even the highest gives more (or nothing was detected).
    """
    allowed = np.floor(np.asarray(rates) * events.images_of.sum() * (1 + ROUNDING)).astype(np.int64)
    excess = np.concatenate([events.false_scores, [-np.inf]])[np.minimum(allowed, len(events.false_scores))]
    kept = np.searchsorted(-events.scores, -excess, "left")  # detections with a score above the first one too many
    return np.concatenate([[np.nan], events.scores])[kept]


def _hits_at(events: Events, hits, false, target, excess) -> np.ndarray:
    """Weighted hits where the false positives `excess` are the first to bring the weighted count above `target`."""
    above, together = hits[events.hits_above[excess]], hits[events.hits_with[excess]]
    tied = together > above
    found = above.astype(np.float64)
    if tied.any():  # hits and false positives of one score: linear over the step that all of them make together
        score = -events.false_scores[excess[tied]]
        before = np.concatenate([[0], false])[np.searchsorted(-events.false_scores, score, "left")]
        after = false[np.searchsorted(-events.false_scores, score, "right") - 1]
        share = np.clip((target[tied] - before) / (after - before), 0, 1)
        found[tied] += share * (together - above)[tied]
    return found


def _events(truth: Truth, detections: Detections, matches: Matches, wanted: np.ndarray, false: np.ndarray) -> Events:
    best = np.full(len(wanted), -np.inf)  # the score at which each lesion is hit
    np.maximum.at(best, matches.lesion, detections.scores[matches.detection])
    hit = np.flatnonzero(np.isfinite(best))
    owner = truth.patients[truth.lesion_images]
    hits = _falling(best[hit], owner[hit])
    false_positives = _falling(detections.scores[false], truth.patients[detections.images[false]])
    counts = (np.bincount(patients, minlength=truth.patient_count) for patients in (owner[wanted], truth.patients))
    return Events(*hits, *false_positives, -np.sort(-detections.scores), *counts)


def _falling(scores: np.ndarray, patients: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-scores, kind="stable")
    return scores[order], patients[order]
