"""The second stage's targets and losses: a sample of the proposals, and what should have been predicted for it.

As torchvision's `RoIHeads`, but for the sample (see `sampling.py`), for sums instead of means, and for the box loss,
whose turning point and weight are fixed there.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import Matcher
from torchvision.ops import roi_align

from lesionpipe.detectors.rcnn.proposals import CODER, LossSums
from lesionpipe.detectors.rcnn.sampling import BACKGROUND, LESION, MINED, draw_sample, match_boxes

REGION_MATCHER = Matcher(0.5, 0.5, allow_low_quality_matches=False)
REGION_LESION_SHARE = 0.25  # at most, of an image's sample (3DCE)
REGION_BETA = 1.0  # turning point of the smooth L1 loss (3DCE)
REGION_BOX_WEIGHT = 10.0  # of that loss (3DCE): its targets are not scaled up, unlike torchvision's


class Regions(NamedTuple):
    """The sampled regions of B images, K in all, those of the first image first."""

    boxes: list[Tensor]  # per image (k, 4) px
    labels: Tensor  # (K,) int64: LESION, BACKGROUND or MINED
    deltas: Tensor  # (K, 4) float32 to the region's lesion, read where the label is LESION
    lesions: list[Tensor]  # per image int64 (p,): which lesion the regions labelled LESION stand for

    def of_lesions(self) -> list[Tensor]:
        """Per image (p, 4): the boxes of the regions that stand for a lesion."""
        labels = self.labels.split([len(own) for own in self.boxes])
        return [own[label == LESION] for own, label in zip(self.boxes, labels, strict=True)]


@torch.no_grad()
def sample_regions(
    proposals: Sequence[Tensor],
    lesions: Sequence[Tensor],
    mined: Sequence[Tensor],
    count: int,
    generators: Sequence[torch.Generator],
) -> Regions:
    """Draw `count` regions of each image from its proposals, its lesions and its mined boxes.

    Args:
        proposals, lesions, mined: per image (k, 4), (n, 4) and (m, 4) px; each number may be 0.
        count: regions of an image, at most.
        generators: one per image.
    """
    chosen = []
    for own, found, negative, generator in zip(proposals, lesions, mined, generators, strict=True):
        known = torch.cat([found, negative])
        kinds = torch.tensor([LESION] * len(found) + [MINED] * len(negative), device=known.device, dtype=torch.int64)
        references = torch.cat([own, known])
        labels, nearest = match_boxes(REGION_MATCHER, references, known, kinds)
        sample = draw_sample(labels, count, REGION_LESION_SHARE, generator)
        labels, nearest, boxes = labels[sample], nearest[sample], references[sample]
        goals = torch.where((labels == LESION)[:, None], known[nearest] if len(known) else boxes, boxes)
        chosen.append((boxes, labels, CODER.encode_single(goals, boxes), nearest[labels == LESION]))
    boxes, labels, deltas, numbers = zip(*chosen, strict=True)
    return Regions(list(boxes), torch.cat(labels), torch.cat(deltas), list(numbers))


def region_losses(logits: Tensor, deltas: Tensor, regions: Regions) -> LossSums:
    """Cross entropy of all regions, and weighted smooth L1 of those that stand for a lesion.

    Args:
        logits: (K, classes) float32; without a class for them, mined regions are background.
        deltas: (K, 4) float32.
        regions: the K regions.
    """
    labels = regions.labels
    truth = labels if logits.shape[1] > MINED else labels.masked_fill(labels == MINED, BACKGROUND)
    own = torch.nonzero(labels == LESION).squeeze(1)
    box = F.smooth_l1_loss(deltas[own], regions.deltas[own], beta=REGION_BETA, reduction="sum")
    return LossSums(F.cross_entropy(logits, truth, reduction="sum"), REGION_BOX_WEIGHT * box, len(labels))


def mask_loss_sum(logits: Tensor, regions: Regions, masks: Sequence[Tensor]) -> Tensor:
    """Cross entropy summed over regions that stand for a lesion, each the mean over its pixels.

    Args:
        logits: (P, s, s) float32, of `regions.of_lesions()`.
        regions: of the batch.
        masks: per image (n, S, S), one per lesion.
    """
    side = logits.shape[-1]
    truth = [
        roi_align(own[:, None].float(), torch.cat([lesion[:, None].float(), boxes], dim=1), side, aligned=True)
        for own, lesion, boxes in zip(masks, regions.lesions, regions.of_lesions(), strict=True)
    ]
    return F.binary_cross_entropy_with_logits(logits, torch.cat(truth)[:, 0], reduction="sum") / side**2
