"""What each anchor should predict: the lesion that it belongs to, and the code of that lesion's box.

keras-retinanet's rule, where the paper is silent: an anchor is positive when its IoU with some lesion is 0.5 or more,
ignored from 0.4 to 0.5, negative below. A lesion without any anchor at 0.5 trains nothing: there is no low-quality
match. Anchors whose centre lies outside the image are ignored. The box code is keras-retinanet's too: corner
differences over the anchor's sides, over a standard deviation of 0.2 (torchvision's `BoxCoder` codes centres and
logarithms of sides instead).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from array_api_compat import array_namespace
from torch import Tensor

from lesionpipe.anchors.grid import centre_inside
from lesionpipe.core.boxes import iou
from lesionpipe.detectors.interface import Targets

POSITIVE_IOU = 0.5
NEGATIVE_IOU = 0.4
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1
OFFSET_STD = 0.2


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
    if targets.masks is None:
        return AnchorTargets(labels, offsets, None)
    mask = torch.stack([own.any(dim=0) for own in targets.masks]).bool()  # `any` of uint8 is uint8
    return AnchorTargets(labels, offsets, mask.to(anchors.device))


def match_anchors(anchors: Tensor, boxes: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Labels of the anchors of B images, and for each anchor the lesion that it overlaps most.

    A running maximum over the few lesions of an image keeps memory at a few numbers per anchor (there are 330,000 at
    512 px), where a table of all overlaps such as `torchvision.ops.box_iou` would not.

    Args:
        anchors: (A, 4) xyxy px, the same in all images.
        boxes: per image (n, 4) lesions; n may be 0 and differ.
        image_size: height and width, px.

    Returns:
        labels: (B, A) int8: 1 positive, 0 negative, -1 ignored.
        nearest: (B, A) int64, the lesion with the greatest IoU (the first of equals, 0 where none overlaps).
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


def encode_boxes(boxes, anchors):
    """Offsets (…, 4) without unit of `boxes` from `anchors`, (…, 4) xyxy px: NumPy arrays and tensors alike."""
    return (boxes - anchors) / (_sides(anchors) * OFFSET_STD)


def decode_boxes(offsets, anchors):
    """Boxes from offsets: the inverse of `encode_boxes`."""
    return anchors + offsets * OFFSET_STD * _sides(anchors)


def _sides(anchors):
    """Width, height, width, height."""
    xp = array_namespace(anchors)
    width, height = anchors[..., 2] - anchors[..., 0], anchors[..., 3] - anchors[..., 1]
    return xp.stack([width, height, width, height], axis=-1)
