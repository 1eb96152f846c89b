"""Average precision of a whole evaluated set, in a form that a bootstrap over patients can weight.

Which detections count is decided image by image as in training (`detector.average_precision`); equal scores count
together, so that the order of the input means nothing.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lesionpipe.evaluate.hit_flags import hit_flags
from lesionpipe.evaluate.truth import Detections, Truth


@dataclass(frozen=True)
class Ranking:
    """All detections (n,) by falling score."""

    scores: np.ndarray
    hits: np.ndarray  # bool: takes a lesion that no better detection took
    patients: np.ndarray
    lesions_of: np.ndarray  # (patients,)

    @cached_property
    def steps(self) -> np.ndarray:
        """Position of the last detection of each distinct score that holds a hit."""
        last = len(self.scores) - 1 - np.searchsorted(self.scores[::-1], self.scores[self.hits], "left")
        return np.unique(last)


def rank_detections(truth: Truth, detections: Detections, iou: float = 0.5) -> Ranking:
    """Decide hit or false positive for each detection and sort all by score."""
    x1, y1, x2, y2 = detections.boxes.T
    order = np.lexsort((y2, x2, y1, x1, -detections.scores, detections.images))
    images, found, scores = detections.images[order], detections.boxes[order], detections.scores[order]
    hits = np.zeros(len(order), dtype=bool)
    for image in np.intersect1d(images, truth.lesion_images):
        here = slice(*np.searchsorted(images, [image, image + 1]))
        lesions = truth.lesion_boxes[truth.lesion_images == image]
        hits[here] = hit_flags(found[here], scores[here], lesions, iou)
    falling = np.argsort(-scores, kind="stable")
    lesions_of = np.bincount(truth.patients[truth.lesion_images], minlength=truth.patient_count)
    return Ranking(scores[falling], hits[falling], truth.patients[images[falling]], lesions_of)


def average_precision(ranking: Ranking, weights: np.ndarray | None = None) -> float:
    """Area under precision over recall, all-point interpolation; NaN without lesions.

    Args:
        weights: how often each patient counts, (patients,); none: once.
    """
    weights = np.ones(len(ranking.lesions_of), dtype=np.int64) if weights is None else weights
    lesions = weights @ ranking.lesions_of
    if lesions == 0:
        return np.nan
    counted = weights[ranking.patients]
    found = np.cumsum(counted * ranking.hits)[ranking.steps]
    precision = found / np.maximum(np.cumsum(counted)[ranking.steps], 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or above
    return float(np.sum(np.diff(found, prepend=0) * envelope) / lesions)
