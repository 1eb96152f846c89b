"""Which anchors and regions learn what: their match with the boxes of an image, and a random sample of them.

Matching is torchvision's `Matcher`. Its sampler draws from the global generator, by which the sample of one image would
depend on the images before it: on the number of processes, too. Here an image has a generator of its own, whose seed
comes from its pixels (which are newly augmented in each epoch) and from the step.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import box_iou

NEITHER, BACKGROUND, LESION, MINED = -1, 0, 1, 2  # labels; MINED: a hard negative, see `train.hard_negatives`
STEP_FACTOR = 2_654_435_761  # a large prime, so that steps and pixel sums don't meet


class BoxMatches(NamedTuple):
    """What each of n anchors or regions stands for."""

    labels: Tensor  # (n,) int64, see above
    nearest: Tensor  # (n,) int64, which box it stands for, or overlaps most


def match_boxes(matcher: Matcher, references: Tensor, boxes: Tensor, labels: Tensor) -> BoxMatches:
    """Match references (n, 4) with the m boxes (m, 4) of an image and their labels (m,); m may be 0."""
    if len(boxes) == 0 or len(references) == 0:
        nothing = torch.zeros(len(references), dtype=torch.int64, device=references.device)
        return BoxMatches(torch.full_like(nothing, BACKGROUND), nothing)
    found = matcher(box_iou(boxes, references))
    nearest = found.clamp(min=0)
    own = labels[nearest].masked_fill(found == Matcher.BELOW_LOW_THRESHOLD, BACKGROUND)
    return BoxMatches(own.masked_fill(found == Matcher.BETWEEN_THRESHOLDS, NEITHER), nearest)


def image_generators(images: Tensor, step: Tensor) -> list[torch.Generator]:
    """A random generator on the CPU for each image of (B, slices, H, W), the same wherever and in whatever batch."""
    pixels = images.float().view(torch.int32).sum(dim=(1, 2, 3))  # int64: the order of summing doesn't matter
    return [torch.Generator().manual_seed(seed) for seed in (pixels + STEP_FACTOR * step).tolist()]


def draw_sample(labels: Tensor, count: int, lesion_share: float, generator: torch.Generator) -> Tensor:
    """Indices (s,) of a random sample of s <= `count` references, lesions first.

    Lesions make up at most `lesion_share`; mined references come before others, up to half of the negatives.
    """
    lesions = _draw(labels == LESION, int(count * lesion_share), generator)
    left = count - len(lesions)
    mined = _draw(labels == MINED, left // 2, generator)
    return torch.cat([lesions, mined, _draw(labels == BACKGROUND, left - len(mined), generator)])


def _draw(wanted: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Up to `count` of the indices where `wanted` (n,), in random order."""
    index = torch.nonzero(wanted).squeeze(1)
    return index[torch.randperm(len(index), generator=generator)[:count].to(index.device)]
