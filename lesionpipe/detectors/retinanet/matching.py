"""Anchors x lesions -> positive, ignored, negative (keras-retinanet's rule, where the paper is silent).

An anchor is positive when its IoU with some lesion is 0.5 or more, ignored from 0.4 to 0.5, negative below. A lesion
without any anchor at 0.5 trains nothing: there is no low-quality match. Anchors whose centre lies outside the image are
ignored. Tensors on any device; a running maximum over the few lesions of an image keeps memory at a few numbers per
anchor (there are 330,000 at 512 px), where a table of all overlaps such as `torchvision.ops.box_iou` would not.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lesionpipe.anchors.grid import centre_inside
from lesionpipe.core.boxes import iou
from lesionpipe.detectors.retinanet.box_code import encode_boxes

POSITIVE_IOU = 0.5
NEGATIVE_IOU = 0.4
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match_anchors(anchors: Tensor, boxes: Sequence[Tensor], image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Labels of the anchors of B images, and for each anchor the lesion that it overlaps most.

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


def encoded_targets(anchors: Tensor, boxes: Sequence[Tensor], labels: Tensor, nearest: Tensor) -> Tensor:
    """Offsets (B, A, 4) of each positive anchor's lesion, zero elsewhere, from the result of `match_anchors`."""
    offsets = anchors.new_zeros(*labels.shape, 4)
    padded = torch.nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)  # (B, n, 4)
    image, anchor = torch.nonzero(labels == POSITIVE, as_tuple=True)
    offsets[image, anchor] = encode_boxes(padded[image, nearest[image, anchor]], anchors[anchor])
    return offsets
