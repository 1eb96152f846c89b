"""The box code of anchors: corner differences over the anchor's sides, over a standard deviation of 0.2.

That is keras-retinanet's code, where the paper is silent; torchvision's `BoxCoder` codes centres and logarithms of
sides instead. NumPy arrays and tensors alike, boxes and anchors (…, 4) xyxy px, offsets (…, 4) without unit.
"""

from array_api_compat import array_namespace

OFFSET_STD = 0.2


def encode_boxes(boxes, anchors):
    """Offsets of `boxes` from `anchors`, broadcast against each other."""
    return (boxes - anchors) / (_sides(anchors) * OFFSET_STD)


def decode_boxes(offsets, anchors):
    """Boxes from offsets: the inverse of `encode_boxes`."""
    return anchors + offsets * OFFSET_STD * _sides(anchors)


def _sides(anchors):
    """Width, height, width, height."""
    xp = array_namespace(anchors)
    width, height = anchors[..., 2] - anchors[..., 0], anchors[..., 3] - anchors[..., 1]
    return xp.stack([width, height, width, height], axis=-1)
