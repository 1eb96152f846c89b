"""Raw maps -> predictions: candidates, calibration by mask coherence, NMS (paper, sec. 2.2).

The score of a candidate box is p (1 + IoU) with the box around the predicted mask (`calibration.py`); it may exceed 1
and is not a probability: FROC and mAP only need its order. Calibration comes *before* NMS, so that of several boxes on
one lesion the one survives that fits the mask best, not the one that merely had the greatest p. All steps run on the
maps' device for the whole batch at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms, clip_boxes_to_image

from lesionpipe.detectors.interface import DecodingSettings, Prediction
from lesionpipe.detectors.retinanet.calibration import calibrate
from lesionpipe.detectors.retinanet.matching import decode_boxes
from lesionpipe.detectors.retinanet.network import RawMaps

SHORTLIST = 10  # times `detections_per_image` candidates of an image are suppressed first


class Candidates(NamedTuple):
    """Boxes of a whole batch before NMS, M in all."""

    boxes: Tensor  # (M, 4)
    scores: Tensor  # (M,)
    image: Tensor  # (M,) int64, index in the batch


def decode_maps(
    raw: RawMaps,
    anchors: Tensor,
    settings: DecodingSettings,
    image_size: tuple[int, int],
    recist_margin: float | Tensor,
) -> list[Prediction]:
    """Predictions for each image of a batch, as `Detector.predict` promises them.

    Args:
        raw: the network's output for B images, without gradients.
        anchors: (A, 4) px.
        settings: `calibrate` has no effect where the network has no mask branch.
        image_size: height and width, px; boxes are clipped to the image.
        recist_margin: px by which a lesion's box reaches beyond its mask: one number, or (B, 2) in x and y.
    """
    images = len(raw.logits)
    mask = None if raw.mask_logits is None else raw.mask_logits.float().sigmoid()  # (B, H, W)
    found = _candidates(raw, anchors, settings, image_size)
    if settings.calibrate and mask is not None:
        margin = recist_margin[found.image] if isinstance(recist_margin, Tensor) else recist_margin
        found = found._replace(scores=calibrate(*found, mask > settings.mask_threshold, margin))
    kept = _suppress(found, images, settings)
    kept = _take(kept, kept.image.argsort(stable=True))  # by image, best first
    counts = torch.bincount(kept.image, minlength=images).tolist()
    masks = [None] * images if mask is None else mask.unbind()
    of_images = zip(kept.boxes.split(counts), kept.scores.split(counts), masks, strict=True)
    limit = settings.detections_per_image
    return [Prediction(boxes[:limit], scores[:limit], own_mask) for boxes, scores, own_mask in of_images]


def _candidates(raw: RawMaps, anchors: Tensor, settings: DecodingSettings, image_size: tuple[int, int]) -> Candidates:
    """The best `topk_candidates` anchors of each level and image that reach the score threshold, as clipped boxes."""
    logits, chosen, start = [], [], 0
    for level in raw.logits.float().split(raw.level_sizes, dim=1):
        best, index = level.topk(min(settings.topk_candidates, level.shape[1]), dim=1)
        logits.append(best)
        chosen.append(index + start)
        start += level.shape[1]
    scores, anchor = torch.cat(logits, dim=1).sigmoid(), torch.cat(chosen, dim=1)  # (B, K)
    image, place = torch.nonzero(scores >= settings.score_threshold, as_tuple=True)  # (M,)
    anchor = anchor[image, place]
    boxes = decode_boxes(raw.offsets[image, anchor].float(), anchors[anchor])
    # the image reaches from -0.5 to side - 0.5, since pixel centres lie at whole numbers
    return Candidates(clip_boxes_to_image(boxes + 0.5, image_size) - 0.5, scores[image, place], image)


def _suppress(candidates: Candidates, images: int, settings: DecodingSettings) -> Candidates:
    """Non-maximum suppression within each image, best first: at least the first `detections_per_image` survivors.

    Suppression goes from the best box down, so what survives among the best boxes alone survives among all as well. The
    whole list, whose cost grows with its square, is only needed when the best don't leave `detections_per_image` boxes.
    """
    wanted = settings.detections_per_image
    order = candidates.scores.argsort(descending=True, stable=True)
    order = order[candidates.image[order].argsort(stable=True)]  # by image, best first
    totals = torch.bincount(candidates.image, minlength=images)
    start = totals.cumsum(0) - totals
    rank = torch.arange(len(order), device=order.device) - start[candidates.image[order]]
    best = _nms(_take(candidates, order[rank < SHORTLIST * wanted]), settings.nms_iou)
    enough = torch.bincount(best.image, minlength=images) >= wanted
    if (enough | (totals <= SHORTLIST * wanted)).all():
        return best
    return _nms(candidates, settings.nms_iou)


def _nms(candidates: Candidates, iou: float) -> Candidates:
    return _take(candidates, batched_nms(*candidates, iou))


def _take(candidates: Candidates, index: Tensor) -> Candidates:
    return Candidates(*(column[index] for column in candidates))
