"""Raw maps -> detections: candidates, calibration by mask coherence, NMS (paper, sec. 2.2).

The score of a candidate box is p (1 + IoU) with the box around the predicted mask (`calibration.py`); it may exceed 1
and is not a probability: FROC and mAP only need its order. Calibration comes *before* NMS, so that of several boxes on
one lesion the one survives that fits the mask best, not the one that merely had the greatest p. All steps run on the
maps' device for the whole batch at once.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from lesionpipe.core import boxes as box_math
from lesionpipe.detectors.retinanet.calibration import calibrate
from lesionpipe.detectors.retinanet.network import RawMaps
from lesionpipe.params import Detect

SHORTLIST = 10  # times `detections_per_image` candidates of an image are suppressed first


class Detections(NamedTuple):
    """The detections of one image, best first."""

    boxes: Tensor  # (k, 4) xyxy, stored px
    scores: Tensor  # (k,) p, or p (1 + IoU) where calibrated


class Candidates(NamedTuple):
    """Boxes of a whole batch before NMS, M in all."""

    boxes: Tensor  # (M, 4)
    scores: Tensor  # (M,)
    image: Tensor  # (M,) int64, index in the batch


@torch.no_grad()
def decode(
    raw: RawMaps,
    anchors: Tensor,
    settings: Detect,
    image_size: int | tuple[int, int],
    recist_margin_px: float | Tensor,
) -> list[Detections]:
    """Detections of each image of a batch.

    Args:
        raw: the network's output for B images.
        anchors: (A, 4) px.
        settings: params.detect; `calibrate` is passed over where the network has no mask branch.
        image_size: side, or (height, width), px; boxes are clipped to the image.
        recist_margin_px: `detect.recist_margin_px` scaled to the pixels of the stored slice: one number for all images, or
            (B, 2) in x and y.

    Returns:
        B Detections, each of at most `settings.detections_per_image`.
    """
    found = _candidates(raw, anchors, settings, image_size)
    if settings.calibrate and raw.mask_logits is not None:
        mask = raw.mask_logits.float().sigmoid() > settings.mask_threshold  # (B, H, W)
        margin = recist_margin_px[found.image] if isinstance(recist_margin_px, Tensor) else recist_margin_px
        found = found._replace(scores=calibrate(found.boxes, found.scores, found.image, mask, margin))
    return _split(_suppress(found, len(raw.logits), settings), len(raw.logits), settings.detections_per_image)


def _candidates(raw: RawMaps, anchors: Tensor, settings: Detect, image_size: int | tuple[int, int]) -> Candidates:
    """The best `topk_candidates` anchors of each level and image that reach the score floor, as clipped boxes."""
    logits, chosen, start = [], [], 0
    for size in raw.level_sizes or (raw.logits.shape[1],):
        level = raw.logits[:, start : start + size].float()
        best, index = level.topk(min(settings.topk_candidates, size), dim=1)
        logits.append(best)
        chosen.append(index + start)
        start += size
    scores, anchor = torch.cat(logits, dim=1).sigmoid(), torch.cat(chosen, dim=1)  # (B, K)
    image, place = torch.nonzero(scores >= settings.score_threshold, as_tuple=True)  # (M,)
    anchor = anchor[image, place]
    boxes = box_math.decode(raw.offsets[image, anchor].float(), anchors[anchor])
    return Candidates(_clip(boxes, image_size), scores[image, place], image)


def _clip(boxes: Tensor, image_size: int | tuple[int, int]) -> Tensor:
    """Boxes cut to the image, which reaches from -0.5 to side - 0.5 since pixel centres lie at whole numbers."""
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    return box_math.clip(boxes + 0.5, width, height) - 0.5


def _suppress(found: Candidates, images: int, settings: Detect) -> Candidates:
    """Non-maximum suppression within each image, best first: at least the first `detections_per_image` that survive of each.

    It goes from the best box down, so what survives of the best boxes alone survives of all as well: the whole list,
    whose cost grows with its square, is gone through only when the best don't yield `detections_per_image` survivors.
    """
    order = found.scores.argsort(descending=True, stable=True)
    order = order[found.image[order].argsort(stable=True)]  # by image, best first
    totals = torch.bincount(found.image, minlength=images)
    start = totals.cumsum(0) - totals
    rank = torch.arange(len(order), device=order.device) - start[found.image[order]]
    best = _nms(_take(found, order[rank < SHORTLIST * settings.detections_per_image]), settings.nms_iou)
    enough = torch.bincount(best.image, minlength=images) >= settings.detections_per_image
    if (enough | (totals <= SHORTLIST * settings.detections_per_image)).all():
        return best
    return _nms(found, settings.nms_iou)


def _nms(found: Candidates, iou: float) -> Candidates:
    return _take(found, batched_nms(found.boxes, found.scores, found.image, iou))


def _take(found: Candidates, index: Tensor) -> Candidates:
    return Candidates(found.boxes[index], found.scores[index], found.image[index])


def _split(found: Candidates, images: int, detections_per_image: int) -> list[Detections]:
    """Candidates sorted by score -> the first `detections_per_image` of each image."""
    order = torch.argsort(found.image, stable=True)  # by image, the scores' order kept within each
    counts = torch.bincount(found.image, minlength=images).tolist()
    boxes, scores = found.boxes[order].split(counts), found.scores[order].split(counts)
    return [Detections(b[:detections_per_image], s[:detections_per_image]) for b, s in zip(boxes, scores, strict=True)]
