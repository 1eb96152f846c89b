"""Raw maps + lesions -> named losses (paper, sec. 2.3 "Training": RetinaNet's losses, and focal loss for the masks).

Matching, by keras-retinanet's rule, where the paper is silent: an anchor is positive when its IoU with some lesion is
0.5 or more, ignored from 0.4 to 0.5, negative below. A lesion without any anchor at 0.5 trains nothing: there is no
low-quality match. Anchors whose centre lies outside the image are ignored.

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

from lesionpipe.anchors.grid import centre_inside
from lesionpipe.core.boxes import iou
from lesionpipe.detectors.interface import Targets
from lesionpipe.detectors.retinanet.network import RawMaps, encode_boxes

POSITIVE_IOU = 0.5
NEGATIVE_IOU = 0.4
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
ALPHA = 0.25
GAMMA = 2
BETA = 1 / 9  # turning point of the smooth L1 loss: 1 / sigma², sigma 3


class AnchorTargets(NamedTuple):
    """What the network should have predicted for B images and A anchors."""

    labels: Tensor  # (B, A) int8: 1 positive, 0 negative, -1 ignored
    offsets: Tensor  # (B, A, 4) float32 encoded boxes, zero where the label isn't 1
    mask: Tensor | None  # (B, H, W) bool, pixels of any lesion; None where there are no masks


def anchor_targets(anchors: Tensor, targets: Targets, image_size: tuple[int, int]) -> AnchorTargets:
    """What anchors (A, 4) should predict for the lesions of a batch, on the anchors' device; height and width in px."""
    boxes = [own.to(anchors) for own in targets.boxes]
    labels, nearest = match_anchors(anchors, boxes, image_size)
    offsets = anchors.new_zeros(*labels.shape, 4)
    padded = torch.nn.utils.rnn.pad_sequence(boxes, batch_first=True)  # (B, n, 4)
    image, anchor = torch.nonzero(labels == POSITIVE, as_tuple=True)
    offsets[image, anchor] = encode_boxes(padded[image, nearest[image, anchor]], anchors[anchor])
    masks = None if targets.masks is None else torch.stack([own.any(dim=0) for own in targets.masks])
    return AnchorTargets(labels, offsets, None if masks is None else masks.to(anchors.device, torch.bool))


def match_anchors(anchors: Tensor, boxes: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Labels of the anchors of B images, and for each anchor the lesion that it overlaps most.

    A running maximum over the few lesions of an image keeps memory at a few numbers per anchor (there are 330,000 at
    512 px), where a table of all overlaps such as `torchvision.ops.box_iou` would not.

    Args:
        anchors: (A, 4) xyxy px, the same in all images.
        boxes: per image (n, 4) lesions; n may be 0 and differ.
        image_size: height and width, px.

    Returns:
        `AnchorTargets.labels`, and (B, A) int64 lesions (the first of equals, 0 where none overlaps).
    """
    best = anchors.new_zeros(len(boxes), len(anchors))
    nearest = torch.zeros_like(best, dtype=torch.int64)
    columns = anchors.T.contiguous().T  # the same anchors, each corner's numbers contiguous: twice as fast
    for lesion in range(max(map(len, boxes), default=0)):
        images = [image for image, own in enumerate(boxes) if len(own) > lesion]
        overlap = iou(columns, torch.stack([boxes[image][lesion] for image in images])[:, None])  # (images, A)
        rows = slice(None) if len(images) == len(boxes) else images
        nearest[rows] = nearest[rows].masked_fill(overlap > best[rows], lesion)
        best[rows] = torch.maximum(best[rows], overlap)
    labels = (best >= POSITIVE_IOU).to(torch.int8)
    ignored = (best >= NEGATIVE_IOU) & (best < POSITIVE_IOU) | ~centre_inside(anchors, *image_size)
    return labels.masked_fill_(ignored, IGNORED), nearest


def count_targets(targets: AnchorTargets) -> Tensor:
    """Positive anchors and lesion pixels of a batch, float32 (2,): what the losses are divided by."""
    positives = (targets.labels == POSITIVE).sum()
    pixels = torch.zeros_like(positives) if targets.mask is None else targets.mask.sum()
    return torch.stack([positives, pixels]).float()


def detection_losses(raw: RawMaps, targets: AnchorTargets, divisors: Tensor) -> dict[str, Tensor]:
    """Losses `classification`, `box` and, if the network has a mask branch, `mask`: scalars, float32.

    `divisors`: (2,) of the first two losses and of the third, what a `Share` makes of `count_targets`. Where the shapes
    of the network's output and of the targets differ, that is a ValueError.
    """
    _require_same_shape("anchors", raw.logits, targets.labels)
    with torch.autocast(raw.logits.device.type, enabled=False):
        positive = targets.labels == POSITIVE
        focal = focal_loss(raw.logits.float(), positive).masked_fill(targets.labels == IGNORED, 0)
        few = torch.nonzero(positive, as_tuple=True)  # of hundreds of thousands
        box = F.smooth_l1_loss(raw.offsets[few].float(), targets.offsets[few], beta=BETA, reduction="sum")
        losses = {"classification": focal.sum() / divisors[0], "box": box / divisors[0]}
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


def _require_same_shape(what: str, predicted: Tensor, given: Tensor) -> None:
    if predicted.shape != given.shape:
        raise ValueError(f"{what}: {tuple(predicted.shape)} predicted, {tuple(given.shape)} in the targets")
