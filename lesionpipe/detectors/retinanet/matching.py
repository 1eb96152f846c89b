"""Anchors x lesions -> positive, ignored, negative (keras-retinanet's rule, where the paper is silent).

An anchor is positive when its IoU with some lesion is 0.5 or more, ignored from 0.4 to 0.5, negative below. A lesion
that meets no anchor at 0.5 trains nothing: there is no low-quality match. Anchors whose centre lies outside the image
are ignored. Tensors on any device; one running maximum over the few lesions of an image, so memory stays at a few
numbers per anchor (there are 330,000 at 512 px) and a whole batch needs no loop over its images.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lesionpipe.anchors.grid import centre_inside
from lesionpipe.core import boxes as box_math

POSITIVE_IOU = 0.5
NEGATIVE_IOU = 0.4
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


def match(anchors: Tensor, boxes: Tensor, image_size: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Labels of the anchors of one image and the lesion nearest to each.

    Args:
        anchors: (A, 4) xyxy px.
        boxes: (n, 4) lesions, n may be 0.
        image_size: side, or (height, width), px.

    Returns:
        labels: (A,) int8: 1 positive, 0 negative, -1 ignored.
        index: (A,) int64, the lesion with the greatest IoU (the first of equals, 0 where none overlaps).
    """
    labels, index = match_batch(anchors, [boxes], image_size)
    return labels[0], index[0]


def match_batch(anchors: Tensor, boxes: Sequence[Tensor], image_size: int | tuple[int, int]) -> tuple[Tensor, Tensor]:
    """`match` for the lesions (n, 4) of each image of a batch, whose n may differ: labels and index (B, A)."""
    best = anchors.new_zeros(len(boxes), len(anchors))
    index = torch.zeros_like(best, dtype=torch.int64)
    columns = anchors.T.contiguous().T  # the same anchors, but each corner's numbers side by side: twice as fast
    for lesion in range(max(map(len, boxes), default=0)):
        images = [image for image, own in enumerate(boxes) if len(own) > lesion]
        overlap = box_math.iou(columns, torch.stack([boxes[image][lesion] for image in images])[:, None])  # (k, A)
        rows = slice(None) if len(images) == len(boxes) else images
        index[rows] = index[rows].masked_fill(overlap > best[rows], lesion)
        best[rows] = torch.maximum(best[rows], overlap)
    labels = (best >= POSITIVE_IOU).to(torch.int8)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    ignored = (best >= NEGATIVE_IOU) & (best < POSITIVE_IOU) | ~centre_inside(anchors, height, width)
    return labels.masked_fill_(ignored, IGNORED), index


def encoded_targets(anchors: Tensor, boxes: Sequence[Tensor], labels: Tensor, index: Tensor) -> Tensor:
    """Offsets (B, A, 4) of each positive anchor's lesion, zero elsewhere, from the result of `match_batch`."""
    offsets = anchors.new_zeros(*labels.shape, 4)
    padded = torch.nn.utils.rnn.pad_sequence(list(boxes), batch_first=True)  # (B, n, 4)
    image, anchor = torch.nonzero(labels == POSITIVE, as_tuple=True)
    offsets[image, anchor] = box_math.encode(padded[image, index[image, anchor]], anchors[anchor])
    return offsets
