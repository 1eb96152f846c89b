"""Average precision of one class: the area under precision over recall, all-point interpolation (PASCAL VOC 2010 on).

The mAP that steers training (paper, sec. 2.3) is this number: lesions are a single class.
"""

from collections.abc import Sequence

import numpy as np

from lesionpipe.core.boxes import pairwise_iou


def average_precision(
    found: Sequence[np.ndarray], scores: Sequence[np.ndarray], truth: Sequence[np.ndarray], iou: float = 0.5
) -> float:
    """AP over images; 0 where there is no lesion at all.

    Within an image, detections take turns by descending score; each takes the unhit lesion that it overlaps most, if by
    at least `iou`, and is a false positive otherwise.

    Args:
        found: per image, boxes (k, 4).
        scores: per image, (k,).
        truth: per image, boxes of the lesions (n, 4).
    """
    lesions = sum(len(boxes) for boxes in truth)
    if lesions == 0 or not len(found):
        return 0.0
    hits = [hit_flags(f, s, t, iou) for f, s, t in zip(found, scores, truth, strict=True)]
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return area_under(np.concatenate(hits)[order], lesions)


def hit_flags(found: np.ndarray, scores: np.ndarray, truth: np.ndarray, iou: float) -> np.ndarray:
    """Which detections (k,) of one image hit a lesion that no better one has hit."""
    hits = np.zeros(len(found), bool)
    if not len(found) or not len(truth):
        return hits
    overlap = pairwise_iou(np.asarray(found, np.float64), np.asarray(truth, np.float64))
    for row in np.argsort(-np.asarray(scores), kind="stable"):
        lesion = overlap[row].argmax()
        if overlap[row, lesion] >= iou:
            hits[row] = True
            overlap[:, lesion] = -1.0
    return hits


def area_under(hits: np.ndarray, lesions: int) -> float:
    """AP from hit flags (n,) in order of descending score."""
    if not len(hits):
        return 0.0
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or above
    return float(np.sum(envelope[hits]) / lesions)
