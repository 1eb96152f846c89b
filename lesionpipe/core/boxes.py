"""Boxes as float xyxy arrays (…, 4), NumPy's or torch's.

`pixel` is 0 for continuous boxes and 1 for the +1-pixel convention (width = x2 - x1 + 1) of the published evaluations.
"""

from array_api_compat import array_namespace


def area(boxes, pixel: float = 0.0):
    """Areas (…,) of boxes (…, 4)."""
    return (boxes[..., 2] - boxes[..., 0] + pixel) * (boxes[..., 3] - boxes[..., 1] + pixel)


def iou(a, b, pixel: float = 0.0):
    """Element-wise IoU of boxes `a` and `b`, broadcast against each other: (…,)."""
    xp = array_namespace(a, b)
    width = xp.minimum(a[..., 2], b[..., 2]) - xp.maximum(a[..., 0], b[..., 0]) + pixel
    height = xp.minimum(a[..., 3], b[..., 3]) - xp.maximum(a[..., 1], b[..., 1]) + pixel
    overlap = xp.clip(width, 0, None) * xp.clip(height, 0, None)
    union = area(a, pixel) + area(b, pixel) - overlap
    return xp.where(union > 0, overlap / xp.where(union > 0, union, xp.ones_like(union)), xp.zeros_like(union))


def pairwise_iou(a, b, pixel: float = 0.0):
    """IoU of every box of `a` (n, 4) with every box of `b` (m, 4): (n, m)."""
    return iou(a[:, None, :], b[None, :, :], pixel)


def clip(boxes, width: float, height: float):
    """Boxes cut to the image [0, width] x [0, height]."""
    xp = array_namespace(boxes)
    x = xp.clip(boxes[..., 0::2], 0, width)
    y = xp.clip(boxes[..., 1::2], 0, height)
    return xp.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], axis=-1)
