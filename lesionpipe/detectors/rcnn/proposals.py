"""The first stage: from maps to boxes that may hold a lesion (Faster R-CNN's region proposal network).

The arithmetic is that of torchvision's `RegionProposalNetwork`; its own class isn't used because it makes anchors in
the features' precision (bfloat16 counts in steps of 2 px), draws from the global generator, and returns means where
processes that share a batch need sums.

Boxes in this folder lie in the frame where pixel i covers [i, i + 1), which torchvision's RoI operations expect.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder, Matcher
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from lesionpipe.detectors.interface import Float32Conv2d
from lesionpipe.detectors.rcnn.sampling import LESION, draw_sample, match_boxes

MATCHER = Matcher(0.7, 0.3, allow_low_quality_matches=True)  # each lesion has at least its best anchor
CODER = BoxCoder((1.0, 1.0, 1.0, 1.0))  # shift of the centre and logarithm of the sides, relative to the reference
SAMPLED_ANCHORS, SAMPLED_LESION_SHARE = 32, 0.5  # of an image (3DCE)
PROPOSAL_BETA = 1 / 9  # turning point of the smooth L1 loss
PROPOSAL_NMS_IOU = 0.7


class RawProposals(NamedTuple):
    """What the first stage predicts for A anchors, float32; their order is that of `anchors.grid.anchors_for`."""

    objectness: Tensor  # (B, A) logit
    deltas: Tensor  # (B, A, 4) see `CODER`
    level_sizes: tuple[int, ...]  # anchors in each level; their sum is A


class LossSums(NamedTuple):
    """Losses before the division by the number of what they are summed over."""

    classification: Tensor  # ()
    box: Tensor  # ()
    count: int


class ProposalHead(nn.Module):
    """A 3x3 convolution, then objectness and box deltas for each anchor; shared by all levels.

    Args:
        channels: of the maps.
        hidden_channels: of the 3x3 convolution (3DCE: 256).
        per_cell: anchors per cell.
    """

    def __init__(self, channels: int, hidden_channels: int, per_cell: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(channels, hidden_channels, 3, padding=1)
        self.objectness = Float32Conv2d(hidden_channels, per_cell, 1)
        self.deltas = Float32Conv2d(hidden_channels, 4 * per_cell, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.normal_(self.objectness.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for convolution in (self.hidden, self.objectness, self.deltas):
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> RawProposals:
        """Maps (B, channels, h, w), finest first."""
        hidden = [torch.relu(self.hidden(features)) for features in maps]
        objectness = [_per_anchor(self.objectness(features), 1).squeeze(-1) for features in hidden]
        deltas = [_per_anchor(self.deltas(features), 4) for features in hidden]
        level_sizes = tuple(level.shape[1] for level in objectness)
        return RawProposals(torch.cat(objectness, dim=1), torch.cat(deltas, dim=1), level_sizes)


def _per_anchor(maps: Tensor, outputs: int) -> Tensor:
    """(B, K * outputs, h, w) -> float32 (B, h * w * K, outputs)."""
    return maps.float().permute(0, 2, 3, 1).reshape(len(maps), -1, outputs)


@torch.no_grad()
def select_proposals(
    raw: RawProposals, anchors: Tensor, image_size: tuple[int, int], candidates: int, count: int, min_side: float
) -> list[Tensor]:
    """The best boxes of each image: (k, 4) px, best first.

    Args:
        raw: for B images.
        anchors: (A, 4) px.
        image_size: height and width, px; boxes are clipped to it.
        candidates: the best of each level that enter the non-maximum suppression, which goes by level.
        count: at most so many remain of an image.
        min_side: px; boxes with a smaller side are dropped.
    """
    levels = torch.split(raw.objectness, raw.level_sizes, dim=1)
    best = [level.topk(min(candidates, level.shape[1]), dim=1) for level in levels]
    starts = torch.tensor([0, *raw.level_sizes[:-1]]).cumsum(0).tolist()
    chosen = torch.cat([level.indices + start for level, start in zip(best, starts, strict=True)], dim=1)  # (B, K)
    number = torch.cat([torch.full_like(level.indices[0], i) for i, level in enumerate(best)])  # (K,) level
    proposals = []
    for logits, deltas, index in zip(raw.objectness, raw.deltas, chosen, strict=True):
        boxes = clip_boxes_to_image(CODER.decode_single(deltas[index], anchors[index]), image_size)
        kept = remove_small_boxes(boxes, min_side)
        boxes, scores = boxes[kept], logits[index[kept]]
        proposals.append(boxes[batched_nms(boxes, scores, number[kept], PROPOSAL_NMS_IOU)[:count]])
    return proposals


def proposal_losses(
    raw: RawProposals, anchors: Tensor, lesions: Sequence[Tensor], generators: Sequence[torch.Generator]
) -> LossSums:
    """Cross entropy of the sampled anchors of a batch, and smooth L1 of those that stand for a lesion.

    Args:
        raw: for B images.
        anchors: (A, 4) px.
        lesions: per image (n, 4) px; n may be 0.
        generators: one per image.
    """
    classification, box, count = raw.objectness.new_zeros(()), raw.deltas.new_zeros(()), 0
    for image, (boxes, generator) in enumerate(zip(lesions, generators, strict=True)):
        all_lesions = torch.full((len(boxes),), LESION, device=boxes.device)
        labels, nearest = match_boxes(MATCHER, anchors, boxes, all_lesions)
        sample = draw_sample(labels, SAMPLED_ANCHORS, SAMPLED_LESION_SHARE, generator)
        own = sample[labels[sample] == LESION]
        truth = (labels[sample] == LESION).float()
        wanted = CODER.encode_single(boxes[nearest[own]], anchors[own])
        logits, deltas = raw.objectness[image, sample], raw.deltas[image, own]
        classification = classification + F.binary_cross_entropy_with_logits(logits, truth, reduction="sum")
        box = box + F.smooth_l1_loss(deltas, wanted, beta=PROPOSAL_BETA, reduction="sum")
        count += len(sample)
    return LossSums(classification, box, count)
