"""Average precision of one class: the area under precision over recall, all-point interpolation (PASCAL VOC 2010 on).

Training stops by this number (paper, sec. 2.3: the mAP, lesions being a single class) and evaluation reports it.
Within an image, detections take turns by descending score; each takes the free lesion that it overlaps most, if by
enough, and is a false positive otherwise. Equal scores enter the curve together, and within an image they take turns
by their coordinates: the order of the input means nothing. A bootstrap only weights a `Ranking`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lesionpipe.core.boxes import pairwise_iou


@dataclass(frozen=True)
class Ranking:
    """All detections (n,) of a set by falling score, and who owns them."""

    hits: np.ndarray  # bool: takes a lesion that no better detection took
    owners: np.ndarray  # (n,) int, 0 … owners - 1: the patients that a bootstrap draws
    lesions_of: np.ndarray  # (owners,) int, lesions of each
    steps: np.ndarray  # position of the last detection of each distinct score that holds a hit

    def area(self, weights: np.ndarray | None = None) -> float:
        """The average precision, each owner counting `weights` (owners,) times or once; NaN without lesions."""
        weights = np.ones(len(self.lesions_of), dtype=np.int64) if weights is None else weights
        lesions = weights @ self.lesions_of
        if lesions == 0:
            return np.nan
        counted = weights[self.owners]
        found = np.cumsum(counted * self.hits, dtype=np.int64)[self.steps]
        precision = found / np.maximum(np.cumsum(counted, dtype=np.int64)[self.steps], 1)
        envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or above
        return float(np.sum(np.diff(found, prepend=0) * envelope) / lesions)


def average_precision(
    boxes: Sequence[np.ndarray], scores: Sequence[np.ndarray], truth: Sequence[np.ndarray], iou: float = 0.5
) -> float:
    """Average precision over images; 0 where there is no lesion at all.

    Per image: `boxes` (k, 4) xyxy and `scores` (k,) of the detections, `truth` (n, 4) the boxes of the lesions.
    """
    count = sum(map(len, truth))
    if not count:
        return 0.0
    hits = np.concatenate([first_hits(*image, iou) for image in zip(boxes, scores, truth, strict=True)])
    return ranking(np.concatenate(scores), hits, np.zeros(len(hits), dtype=np.int64), np.array([count])).area()


def ranking(scores: np.ndarray, hits: np.ndarray, owners: np.ndarray, lesions_of: np.ndarray) -> Ranking:
    """Sort detections (n,) in any order."""
    falling = np.argsort(-scores, kind="stable")
    scores, hits = scores[falling], hits[falling]
    last = len(scores) - 1 - np.searchsorted(scores[::-1], scores[hits], "left")
    return Ranking(hits, owners[falling], lesions_of, np.unique(last))


def first_hits(boxes: np.ndarray, scores: np.ndarray, truth: np.ndarray, iou: float) -> np.ndarray:
    """Which detections (k,) of one image take a lesion that no better one has taken: (k,) bool."""
    hits = np.zeros(len(boxes), dtype=bool)
    if not len(boxes) or not len(truth):
        return hits
    boxes, truth = np.asarray(boxes, np.float64), np.asarray(truth, np.float64)
    truth = truth[_by_place(truth)]
    overlap = pairwise_iou(boxes, truth)
    turns = _by_place(boxes, -np.asarray(scores, np.float64))
    for row in turns[(overlap >= iou).any(axis=1)[turns]]:
        lesion = overlap[row].argmax()
        if overlap[row, lesion] >= iou:
            hits[row] = True
            overlap[:, lesion] = -1.0
    return hits


def _by_place(boxes: np.ndarray, *first: np.ndarray) -> np.ndarray:
    """Order (n,) of boxes by the keys `first`, then by x1, y1, x2, y2."""
    x1, y1, x2, y2 = boxes.T
    return np.lexsort((y2, x2, y1, x1, *first))
