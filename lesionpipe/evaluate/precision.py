"""The evaluated set as a `data.average_precision.Ranking`, which gives its average precision and a bootstrap's."""

import numpy as np

from lesionpipe.data.average_precision import Ranking, first_hits, ranking
from lesionpipe.evaluate.truth import Detections, Truth


def rank_detections(truth: Truth, detections: Detections, iou: float = 0.5) -> Ranking:
    """Decide hit or false positive for each detection, sort all by score; patients are the owners."""
    order = np.argsort(detections.images, kind="stable")
    images, boxes, scores = detections.images[order], detections.boxes[order], detections.scores[order]
    lesion_order = np.argsort(truth.lesion_images, kind="stable")
    lesion_images, lesion_boxes = truth.lesion_images[lesion_order], truth.lesion_boxes[lesion_order]
    hits = np.zeros(len(order), dtype=bool)
    for image in np.intersect1d(images, lesion_images):
        here, lesions = (slice(*np.searchsorted(places, [image, image + 1])) for places in (images, lesion_images))
        hits[here] = first_hits(boxes[here], scores[here], lesion_boxes[lesions], iou)
    lesions_of = np.bincount(truth.patients[truth.lesion_images], minlength=truth.patient_count)
    return ranking(scores, hits, truth.patients[images], lesions_of)
