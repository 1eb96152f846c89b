"""Raw maps + targets -> named losses (paper, sec. 2.3 "Training": RetinaNet's losses, and focal loss for the masks).

Classification: focal loss, alpha 0.25, gamma 2, over positive and negative anchors; box: smooth L1 with sigma 3
(turning point 1/9) over positive anchors; both summed and divided by the number of positives of the batch (at least 1).
Mask: the same focal loss over all pixels, divided by the number of lesion pixels of the batch (at least 1): dividing by
all pixels would make a lesion of 0.1 % of a slice vanish. All in float32, also inside autocast.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lesionpipe.detectors.retinanet.matching import IGNORED, POSITIVE, encoded_targets, match_anchors
from lesionpipe.detectors.retinanet.network import RawMaps

ALPHA = 0.25
GAMMA = 2
BETA = 1 / 9  # turning point of the smooth L1 loss: 1 / sigma², sigma 3


class AnchorTargets(NamedTuple):
    """What the network should have predicted for B images and A anchors."""

    labels: Tensor  # (B, A) int8: 1 positive, 0 negative, -1 ignored
    offsets: Tensor  # (B, A, 4) float32 encoded boxes, read where the label is 1
    mask: Tensor | None  # (B, H, W) bool, pixels of any lesion; None where the network has no mask branch


def anchor_targets(
    anchors: Tensor, boxes: Sequence[Tensor], mask: Tensor | None, image_size: tuple[int, int]
) -> AnchorTargets:
    """Targets of a batch on the anchors' device.

    Args:
        anchors: (A, 4) px.
        boxes: per image (n, 4) px; n may be 0 and differ.
        mask: bool (B, H, W), all lesions of an image in one mask, or None.
        image_size: height and width, px.
    """
    boxes = [own.to(anchors) for own in boxes]
    labels, nearest = match_anchors(anchors, boxes, image_size)
    offsets = encoded_targets(anchors, boxes, labels, nearest)
    return AnchorTargets(labels, offsets, None if mask is None else mask.to(anchors.device))


def lesion_mask(masks: Sequence[Tensor]) -> Tensor:
    """Masks of single lesions, per image (n, H, W) with n >= 0, -> bool (B, H, W): pixels of any lesion."""
    return torch.stack([own.any(dim=0) for own in masks]).bool()  # `any` of uint8 is uint8


def count_targets(targets: AnchorTargets) -> Tensor:
    """Positive anchors and lesion pixels of a batch, float32 (2,): what the losses are divided by."""
    positives = (targets.labels == POSITIVE).sum()
    pixels = torch.zeros_like(positives) if targets.mask is None else targets.mask.sum()
    return torch.stack([positives, pixels]).float()


def detection_losses(raw: RawMaps, targets: AnchorTargets, divisors: Tensor) -> dict[str, Tensor]:
    """Losses `classification`, `box` and, if the network has a mask branch, `mask`: scalars, float32.

    Args:
        raw: the network's output.
        targets: for the same batch.
        divisors: (2,) of the first two losses and of the third: what a `Share` makes of `count_targets`.

    Raises:
        ValueError: the shapes of network and targets differ, or a mask branch has no masks to learn from.
    """
    _check(raw, targets)
    with torch.autocast(raw.logits.device.type, enabled=False):
        losses = {
            "classification": _classification(raw.logits, targets.labels) / divisors[0],
            "box": _box(raw.offsets, targets) / divisors[0],
        }
        if raw.mask_logits is not None:
            losses["mask"] = focal_loss(raw.mask_logits.float(), targets.mask).sum() / divisors[1]
    return losses


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t per element.

    With p the sigmoid of the logit, p_t is p where `truth` and 1 - p elsewhere. Of z, the logit with its sign changed
    where `truth`, 1 - p_t is the sigmoid and -log p_t the softplus.

    Args:
        logits: float32, any shape.
        truth: bool, same shape.
    """
    signed_logit = torch.where(truth, -logits, logits)
    error = torch.sigmoid(signed_logit)  # 1 - p_t
    return torch.where(truth, ALPHA, 1 - ALPHA) * error**GAMMA * F.softplus(signed_logit)


def _classification(logits: Tensor, labels: Tensor) -> Tensor:
    loss = focal_loss(logits.float(), labels == POSITIVE)
    return loss.masked_fill(labels == IGNORED, 0).sum()


def _box(offsets: Tensor, targets: AnchorTargets) -> Tensor:
    positive = torch.nonzero(targets.labels == POSITIVE, as_tuple=True)  # few of hundreds of thousands
    return F.smooth_l1_loss(offsets[positive].float(), targets.offsets[positive], beta=BETA, reduction="sum")


def _check(raw: RawMaps, targets: AnchorTargets) -> None:
    if raw.logits.shape != targets.labels.shape:
        shapes = f"{tuple(raw.logits.shape)} logits, {tuple(targets.labels.shape)} labels"
        raise ValueError(f"network and targets disagree on images or anchors: {shapes}")
    if raw.mask_logits is None:
        return
    if targets.mask is None:
        raise ValueError("the network has a mask branch but the targets hold no masks")
    if raw.mask_logits.shape != targets.mask.shape:
        shapes = f"{tuple(raw.mask_logits.shape)} predicted, {tuple(targets.mask.shape)} given"
        raise ValueError(f"network and targets disagree on the masks' shape: {shapes}")
