"""Raw maps + targets -> named losses (paper, sec. 2.3 "Training": RetinaNet's losses, and focal loss for the masks).

Classification: focal loss, alpha 0.25, gamma 2, over positive and negative anchors; box: smooth L1 with sigma 3
(turning point 1/9) over positive anchors; both summed and divided by the number of positives of the batch (at least 1).
Mask: the same focal loss over all pixels, divided by the number of lesion pixels of the batch (at least 1): dividing by
all pixels would make a lesion of 0.1 % of a slice vanish. All in float32, also inside autocast.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from lesionpipe.detectors.retinanet.matching import IGNORED, POSITIVE, AnchorTargets
from lesionpipe.detectors.retinanet.network import RawMaps

ALPHA = 0.25
GAMMA = 2
BETA = 1 / 9  # turning point of the smooth L1 loss: 1 / sigma², sigma 3


def count_targets(targets: AnchorTargets) -> Tensor:
    """Positive anchors and lesion pixels of a batch, float32 (2,): what the losses are divided by."""
    positives = (targets.labels == POSITIVE).sum()
    pixels = torch.zeros_like(positives) if targets.mask is None else targets.mask.sum()
    return torch.stack([positives, pixels]).float()


def detection_losses(raw: RawMaps, targets: AnchorTargets, divisors: Tensor) -> dict[str, Tensor]:
    """Losses `classification`, `box` and, if the network has a mask branch, `mask`: scalars, float32.

    `divisors`: (2,) of the first two losses and of the third, what a `Share` makes of `count_targets`.

    Raises:
        ValueError: the shapes of the network's output and of the targets differ.
    """
    _require_same_shape("anchors", raw.logits, targets.labels)
    with torch.autocast(raw.logits.device.type, enabled=False):
        losses = {
            "classification": _classification(raw.logits, targets.labels) / divisors[0],
            "box": _box(raw.offsets, targets) / divisors[0],
        }
        if raw.mask_logits is not None:
            _require_same_shape("masks", raw.mask_logits, targets.mask)
            losses["mask"] = focal_loss(raw.mask_logits.float(), targets.mask).sum() / divisors[1]
    return losses


def focal_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """-alpha_t (1 - p_t)^gamma log p_t per element, of float32 logits and bool `truth` of the same shape.

    With p the sigmoid of the logit, p_t is p where `truth` and 1 - p elsewhere. Of z, the logit with its sign changed
    where `truth`, 1 - p_t is the sigmoid and -log p_t the softplus.
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


def _require_same_shape(what: str, predicted: Tensor, given: Tensor) -> None:
    if predicted.shape != given.shape:
        raise ValueError(f"{what}: {tuple(predicted.shape)} predicted, {tuple(given.shape)} in the targets")
