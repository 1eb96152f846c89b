"""Raw maps -> predictions: candidates, calibration by mask coherence, NMS (paper, sec. 2.2).

Calibration multiplies the score p of a box by 1 + IoU, its coherence with the predicted mask. The paper leaves open
which mask pixels belong to a box. Here: those within its *window*, the box widened on each side by the margin and a
quarter of its side. Their tight box, widened by the margin (DeepLesion's boxes reach 5 px beyond the RECIST end points,
masks don't), is compared with the box itself. A mask that goes on beyond the box so lowers the IoU, a neighbouring
lesion's mask outside the window doesn't count, and without mask pixels the IoU is 0 and p stays. Scores may exceed 1:
FROC and mAP only need their order. It comes *before* NMS, so that of several boxes on one lesion the one survives that
fits the mask best. All steps run on the maps' device, all but NMS for the whole batch at once.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import clip_boxes_to_image, nms

from lesionpipe.core import boxes as box_math
from lesionpipe.detectors.interface import DecodingSettings, Prediction
from lesionpipe.detectors.retinanet.network import RawMaps, decode_boxes

SHORTLIST = 10  # times `detections_per_image`: candidates of an image that are suppressed first
LENGTHENING = 2  # of the shortlist, where it doesn't leave `detections_per_image`
WIDENING = 0.25  # of a box's side, on each side: its window


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
    """Predictions for each image of a batch, as `Detector.predict` promises them, from maps without gradients.

    Anchors are (A, 4) px; boxes are clipped to the image of `image_size`, height and width in px. Without a mask branch
    `settings.calibrate` has no effect.
    """
    images = len(raw.logits)
    mask = None if raw.mask_logits is None else raw.mask_logits.float().sigmoid()  # (B, H, W)
    found = _candidates(raw, anchors, settings, image_size)
    if settings.calibrate and mask is not None:
        margin = recist_margin[found.image] if isinstance(recist_margin, Tensor) else recist_margin
        found = found._replace(scores=calibrate(*found, mask > settings.mask_threshold, margin))
    masks = [None] * images if mask is None else mask.unbind()
    of_images = zip(_by_image(found, images), masks, strict=True)
    return [Prediction(*_suppress(*own, settings), own_mask) for own, own_mask in of_images]


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


def _by_image(candidates: Candidates, images: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Boxes (n, 4) and scores (n,) of each image, best first, those of equal scores in the order given."""
    order = candidates.scores.argsort(descending=True, stable=True)
    order = order[candidates.image[order].argsort(stable=True)]
    counts = torch.bincount(candidates.image, minlength=images).tolist()
    return zip(candidates.boxes[order].split(counts), candidates.scores[order].split(counts), strict=True)


def _suppress(boxes: Tensor, scores: Tensor, settings: DecodingSettings) -> tuple[Tensor, Tensor]:
    """What non-maximum suppression leaves of an image's boxes (n, 4) and scores (n,), best first: the first of it.

    Suppression goes from the best box down, so what survives among the best boxes alone survives among all as well. The
    cost grows with the square of their number: more are only looked at where fewer don't leave enough.
    """
    wanted = settings.detections_per_image
    length = SHORTLIST * wanted
    kept = nms(boxes[:length], scores[:length], settings.nms_iou)
    while len(kept) < wanted and length < len(boxes):
        length *= LENGTHENING
        kept = nms(boxes[:length], scores[:length], settings.nms_iou)
    return boxes[kept[:wanted]], scores[kept[:wanted]]


def calibrate(boxes: Tensor, scores: Tensor, image: Tensor, mask: Tensor, margin: float | Tensor) -> Tensor:
    """Scores p (1 + IoU), (M,), of the columns of `Candidates` and bool masks (B, H, W).

    `margin`: px added around the mask's box; one number, or (M, 2) in x and y for each box.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    margin = torch.as_tensor(margin, dtype=boxes.dtype, device=boxes.device).expand(len(boxes), 2).repeat(1, 2)
    outwards = boxes.new_tensor([-1, -1, 1, 1])
    around, found = mask_boxes(boxes + outwards * (WIDENING * sides + margin), image, mask)
    iou = box_math.iou(boxes, around + outwards * margin)
    return scores * (1 + torch.where(found, iou, torch.zeros_like(iou)))


def mask_boxes(windows: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes (M, 4), pixel centre to pixel centre, around the mask within each window, and whether any is (M,).

    A pixel belongs to a window when its centre does. Windows are (M, 4) px, `image` (M,), `mask` (B, H, W) bool. All
    that hold mask, mostly few, are found at once, by bisection in the integral image of the mask; of the others the box
    is 0.
    """
    sides = torch.tensor([mask.shape[2], mask.shape[1]], device=mask.device)
    start = torch.minimum(windows[:, :2].ceil().long().clamp(min=0), sides)  # (M, 2) first column and row
    end = torch.maximum(torch.minimum(windows[:, 2:].floor().long() + 1, sides), start)  # one past the last
    sums = F.pad(mask.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32), (1, 0, 1, 0))  # (B, H + 1, W + 1)
    count = _counter(sums, image, start, end)
    found = (count(end) > count(start))[:, 0]
    holding = torch.nonzero(found)[:, 0]
    start, end = start[holding], end[holding]
    count = _counter(sums, image[holding], start, end)
    goals = torch.stack([count(start) + 1, count(end)])  # first place to hold a pixel, first to hold all
    places = _bisect(count, goals, start, end, steps=max(mask.shape[1:]).bit_length())
    tight = torch.zeros_like(windows)
    tight[holding] = (places - 1).transpose(0, 1).flatten(1).to(windows.dtype)
    return tight, found


def _counter(sums: Tensor, image: Tensor, start: Tensor, end: Tensor) -> Callable[[Tensor], Tensor]:
    """Counts of mask pixels in each window's first columns, and in its first rows, up to places (…, M, 2).

    Up to a constant: counted from the image's edge, over the window's extent along the other axis. `sums` are the
    integral images (B, H + 1, W + 1) of the masks.
    """
    along = torch.tensor([1, sums.shape[2]], device=sums.device)  # step to the next column, to the next row
    own = image[:, None] * sums[0].numel()
    low, high = own + start.flip(1) * along.flip(0), own + end.flip(1) * along.flip(0)
    sums = sums.flatten()
    return lambda places: sums[high + places * along] - sums[low + places * along]


def _bisect(count: Callable[[Tensor], Tensor], goals: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
    """First places between `low` and `high` at which the rising `count` reaches each of `goals` (…, M, 2)."""
    low, high = low.expand_as(goals), high.expand_as(goals)
    for _ in range(steps):
        middle = (low + high) >> 1
        reached = count(middle) >= goals
        low, high = torch.where(reached, low, torch.minimum(middle + 1, high)), torch.where(reached, middle, high)
    return high
