"""Raw maps + targets -> named losses (paper, sec. 2.3 "Training": RetinaNet's losses, and focal loss for the masks).

Classification: focal loss, alpha 0.25, gamma 2, over positive and negative anchors; box: smooth L1 with sigma 3
(turning point 1/9) over positive anchors; both summed and divided by the number of positives of the batch (at least 1).
Mask: the same focal loss over all pixels, divided by the number of lesion pixels of the batch (at least 1): dividing by
all pixels would let a lesion of 0.1 % of a slice vanish. All in float32, also inside autocast.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from lesionpipe.detectors.retinanet.matching import IGNORED, POSITIVE, encoded_targets, match_batch
from lesionpipe.detectors.retinanet.network import RawMaps

ALPHA = 0.25
GAMMA = 2
SIGMA = 3.0


class Targets(NamedTuple):
    """What the network should have said."""

    labels: Tensor  # (B, A) int8: 1 positive, 0 negative, -1 ignored
    boxes: Tensor  # (B, A, 4) float32 encoded offsets, read where the label is 1
    masks: Tensor | None  # (B, H, W) uint8 or bool, lesion pixels; None only where the network has no mask branch


def build_targets(
    anchors: Tensor, boxes: Sequence[Tensor], masks: Tensor | None, image_size: int | tuple[int, int]
) -> Targets:
    """Targets of a batch on the anchors' device.

    Args:
        anchors: (A, 4) px.
        boxes: per image (n, 4) px, n may be 0 and differ.
        masks: (B, H, W), all lesions of an image in one mask, or None.
        image_size: side, or (height, width), px.
    """
    boxes = [own.to(anchors) for own in boxes]
    labels, index = match_batch(anchors, boxes, image_size)
    offsets = encoded_targets(anchors, boxes, labels, index)
    return Targets(labels, offsets, None if masks is None else masks.to(anchors.device))


def count_targets(targets: Targets) -> Tensor:
    """Positive anchors and lesion pixels of a batch, float32 (2,): what the losses are divided by."""
    positives = (targets.labels == POSITIVE).sum()
    pixels = torch.zeros_like(positives) if targets.masks is None else (targets.masks > 0).sum()
    return torch.stack([positives, pixels]).float()


def detection_losses(raw: RawMaps, targets: Targets, counts: Tensor | None = None) -> dict[str, Tensor]:
    """Losses `classification`, `box` and, if the network has a mask branch, `mask`: scalars, float32.

    Args:
        raw: the network's output.
        targets: for the same batch.
        counts: (2,) what to divide by, from `count_targets`. Processes that share a batch and average their gradients
            pass max(sum over processes, 1) / processes to get the whole batch's gradients; None: this batch's own.

    Raises:
        ValueError: the shapes of network and targets differ, or a mask branch has no masks to learn from.
    """
    _check(raw, targets)
    with torch.autocast(raw.logits.device.type, enabled=False):
        if counts is None:
            counts = count_targets(targets).clamp(min=1)
        losses = {
            "classification": _classification(raw.logits, targets.labels) / counts[0],
            "box": _box(raw.offsets, targets) / counts[0],
        }
        if raw.mask_logits is not None:
            losses["mask"] = focal_loss(raw.mask_logits.float(), targets.masks > 0).sum() / counts[1]
    return losses


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """-alpha_t (1 - p_t)^2 log p_t per element.

    With z the logit turned so that it speaks against the truth, 1 - p_t = sigmoid(z) and -log p_t = softplus(z).

    Args:
        logits: float32, any shape.
        truth: bool, same shape.
    """
    against = torch.where(truth, -logits, logits)
    wrong = torch.sigmoid(against)
    return torch.where(truth, ALPHA, 1 - ALPHA) * wrong**GAMMA * F.softplus(against)


def smooth_l1(difference: Tensor, sigma: float = SIGMA) -> Tensor:
    """0.5 sigma² d² below |d| = 1 / sigma², |d| - 0.5 / sigma² above, element-wise."""
    turn = 1 / sigma**2
    size = difference.abs()
    return torch.where(size < turn, 0.5 / turn * size**2, size - 0.5 * turn)


def _classification(logits: Tensor, labels: Tensor) -> Tensor:
    loss = focal_loss(logits.float(), labels == POSITIVE)
    return loss.masked_fill(labels == IGNORED, 0).sum()


def _box(offsets: Tensor, targets: Targets) -> Tensor:
    positive = torch.nonzero(targets.labels == POSITIVE, as_tuple=True)  # few of hundreds of thousands
    return smooth_l1(offsets[positive].float() - targets.boxes[positive]).sum()


def _check(raw: RawMaps, targets: Targets) -> None:
    if raw.logits.shape != targets.labels.shape:
        shapes = f"{tuple(raw.logits.shape)} logits, {tuple(targets.labels.shape)} labels"
        raise ValueError(f"network and targets disagree on images or anchors: {shapes}")
    if raw.mask_logits is None:
        return
    if targets.masks is None:
        raise ValueError("the network has a mask branch but the targets hold no masks")
    if raw.mask_logits.shape != targets.masks.shape:
        shapes = f"{tuple(raw.mask_logits.shape)} predicted, {tuple(targets.masks.shape)} given"
        raise ValueError(f"network and targets disagree on the masks' shape: {shapes}")
