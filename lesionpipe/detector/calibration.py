"""Calibration of a box's score by its coherence with the predicted mask: p (1 + IoU) (paper, sec. 2.2).

The paper leaves open which mask pixels belong to a box. Here: those within its *window*, the box widened on each side
by the margin and a quarter of its side. Their tight box, widened by the margin (DeepLesion's boxes reach 5 px beyond
the RECIST end points, masks don't), is compared with the box itself. A mask that goes on beyond the box so lowers the
IoU, a neighbouring lesion's mask outside the window doesn't count, and without mask pixels the IoU is 0 and p stays.

The tight box is found for all boxes of a batch at once, by bisection in the mask's integral image.
"""

import math

import torch
from torch import Tensor

from lesionpipe import boxes as box_math

WIDENING = 0.25  # of the box's side, on each side


def calibrate(boxes: Tensor, scores: Tensor, image: Tensor, mask: Tensor, margin: float) -> Tensor:
    """Scores p (1 + IoU).

    Args:
        boxes: (M, 4) px; image: (M,) which image of the batch each lies in.
        scores: (M,) p.
        mask: (B, H, W) bool, predicted lesion pixels.
        margin: px added around the mask's box.

    Returns:
        (M,) between p and 2 p.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    outwards = boxes.new_tensor([-1, -1, 1, 1])
    around, found = mask_boxes(boxes + outwards * (WIDENING * sides + margin), image, mask)
    iou = box_math.iou(boxes, around + outwards * margin)
    return scores * (1 + torch.where(found, iou, torch.zeros_like(iou)))


def mask_boxes(windows: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes (M, 4), pixel centre to pixel centre, around the mask within each window, and whether any is (M,).

    A pixel belongs to a window when its centre does. Windows are (M, 4) px, `image` (M,), `mask` (B, H, W) bool.
    """
    height, width = mask.shape[-2:]
    first = windows[:, :2].ceil().long().clamp(min=0)
    last = windows[:, 2:].floor().long() + 1  # one past the last pixel
    x0, y0 = first[:, 0].clamp(max=width), first[:, 1].clamp(max=height)
    x1 = torch.maximum(last[:, 0].clamp(max=width), x0)
    y1 = torch.maximum(last[:, 1].clamp(max=height), y0)
    sums = _integral(mask)
    columns = _extent(sums, image, x0, x1, y0, y1)
    rows = _extent(sums.transpose(1, 2), image, y0, y1, x0, x1)
    found = columns[0] < x1
    return torch.stack([columns[0], rows[0], columns[1] - 1, rows[1] - 1], dim=1).to(windows.dtype), found


def _integral(mask: Tensor) -> Tensor:
    """Sums of the mask over [0, y) x [0, x): (B, H + 1, W + 1) int32."""
    sums = mask.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32)
    return torch.nn.functional.pad(sums, (1, 0, 1, 0))


def _extent(sums: Tensor, image: Tensor, a0: Tensor, a1: Tensor, b0: Tensor, b1: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last place of [a0, a1) along the last axis that holds mask pixels, (a1, a1) if none does.

    The count over [a0, t) x [b0, b1) rises with t: its first place to exceed 0, and to reach its final value.
    """

    def up_to(t: Tensor) -> Tensor:
        return sums[image, b1, t] - sums[image, b0, t]

    base = up_to(a0)
    goals = torch.stack([base + 1, up_to(a1)])  # (2, M)
    low, high = a0.expand(2, -1), a1.expand(2, -1)
    for _ in range(max(1, math.ceil(math.log2(sums.shape[2])))):
        middle = (low + high) // 2
        reached = up_to(middle) >= goals
        low, high = torch.where(reached, low, torch.minimum(middle + 1, high)), torch.where(reached, middle, high)
    return torch.where(goals[1] > base, high[0] - 1, a1), torch.where(goals[1] > base, high[1], a1)
