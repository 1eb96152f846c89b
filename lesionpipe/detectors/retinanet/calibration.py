"""Calibration of a box's score by its coherence with the predicted mask: p (1 + IoU) (paper, sec. 2.2).

The paper leaves open which mask pixels belong to a box. Here: those within its *window*, the box widened on each side
by the margin and a quarter of its side. Their tight box, widened by the margin (DeepLesion's boxes reach 5 px beyond
the RECIST end points, masks don't), is compared with the box itself. A mask that goes on beyond the box so lowers the
IoU, a neighbouring lesion's mask outside the window doesn't count, and without mask pixels the IoU is 0 and p stays.

The tight boxes of a whole batch are found at once, by bisection in the integral image of the mask.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from lesionpipe.core import boxes as box_math

WIDENING = 0.25  # of the box's side, on each side


def calibrate(boxes: Tensor, scores: Tensor, image: Tensor, mask: Tensor, margin: float | Tensor) -> Tensor:
    """Scores p (1 + IoU), (M,) between p and 2 p.

    Args:
        boxes, scores, image: (M, 4) px, (M,) p, and (M,) which image of the batch each lies in.
        mask: (B, H, W) bool, predicted lesion pixels.
        margin: px added around the mask's box; one number, or (M, 2) in x and y for each box.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    margin = torch.as_tensor(margin, dtype=boxes.dtype, device=boxes.device).expand(len(boxes), 2).repeat(1, 2)
    outwards = boxes.new_tensor([-1, -1, 1, 1])
    around, found = mask_boxes(boxes + outwards * (WIDENING * sides + margin), image, mask)
    iou = box_math.iou(boxes, around + outwards * margin)
    return scores * (1 + torch.where(found, iou, torch.zeros_like(iou)))


def mask_boxes(windows: Tensor, image: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes (M, 4), pixel centre to pixel centre, around the mask within each window, and whether any is (M,).

    A pixel belongs to a window when its centre does. Windows are (M, 4) px, `image` (M,), `mask` (B, H, W) bool.
    """
    sides = torch.tensor([mask.shape[2], mask.shape[1]], device=mask.device)
    start = torch.minimum(windows[:, :2].ceil().long().clamp(min=0), sides)  # (M, 2) first column and row
    end = torch.maximum(torch.minimum(windows[:, 2:].floor().long() + 1, sides), start)  # one past the last
    count = _counter(mask, image, start, end)
    goals = torch.stack([count(start) + 1, count(end)])  # first place to hold a pixel, first to hold all
    places = _bisect(count, goals, start, end, steps=max(mask.shape[1:]).bit_length())
    return (places - 1).transpose(0, 1).flatten(1).to(windows.dtype), goals[1, :, 0] >= goals[0, :, 0]


def _counter(mask: Tensor, image: Tensor, start: Tensor, end: Tensor) -> Callable[[Tensor], Tensor]:
    """Counts of mask pixels in each window's first columns, and in its first rows, up to places (…, M, 2).

    Up to a constant: counted from the image's edge, over the window's extent along the other axis.
    """
    sums = F.pad(mask.cumsum(1, dtype=torch.int32).cumsum(2, dtype=torch.int32), (1, 0, 1, 0))  # (B, H + 1, W + 1)
    along = torch.tensor([1, sums.shape[2]], device=mask.device)  # step to the next column, to the next row
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
