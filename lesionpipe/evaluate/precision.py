"""The evaluated set as a `data.average_precision.Ranking`, which gives its average precision and a bootstrap's."""

import numpy as np

from lesionpipe.data.average_precision import Ranking, first_hits, ranking
from lesionpipe.evaluate.truth import Detections, Truth


def rank_detections(truth: Truth, detections: Detections, iou: float = 0.5) -> Ranking:
    """Decide hit or false positive for each detection, sort all by score; patients are the owners."""
    order = np.argsort(detections.images, kind="stable")
    images, boxes, scores = detections.images[order], detections.boxes[order], detections.scores[order]
    hits = np.zeros(len(order), dtype=bool)
    for image in np.intersect1d(images, truth.lesion_images):
        here = slice(*np.searchsorted(images, [image, image + 1]))
        lesions = truth.lesion_boxes[truth.lesion_images == image]
        hits[here] = first_hits(boxes[here], scores[here], lesions, iou)
    lesions_of = np.bincount(truth.patients[truth.lesion_images], minlength=truth.patient_count)
    return ranking(scores, hits, truth.patients[images], lesions_of)
