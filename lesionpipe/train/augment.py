"""Random flips and affine transforms of image, mask and boxes together (paper, sec. 3.1).

One 3x3 matrix does everything, in stored px counted from the centre of the first pixel:

    p' = c + t + R H S F (p - c)

with c the centre of the image, F flips, S = diag(sx, sy) scaling, H = [[1, tan h], [0, 1]] shear, R the rotation and t
the translation. Image and mask are resampled once.

A box of DeepLesion is the extent of the RECIST end points plus a margin of 5 px. So the box of a transformed lesion is
the extent of its transformed points plus the transformed margin. Each side has a margin of its own (from the outermost
point to the box), seen as the four arrows (-left, 0), (right, 0), (0, -top), (0, bottom); the new margin of a side is
how far the transformed arrows reach towards it. A flip swaps the margins of two sides, a quarter turn moves each to the
next side, scaling stretches them, and small angles hardly change them. Identity and flips give the old box back.
The corners of the rotated old box, which would make it too large, are never used.
"""

from typing import NamedTuple

import cv2
import numpy as np

from lesionpipe.anchors.grid import HALF_PIXEL
from lesionpipe.core import boxes as box_math

ELLIPSE_POINTS = 32


class AugmentationRanges(NamedTuple):
    """Values of the section `train` (paper, sec. 3.1)."""

    flip: float  # probability of each flip
    rotation_rad: float  # largest angle
    shear_rad: float  # largest angle
    scale: float  # largest relative change of size
    translation: float  # largest shift, share of the image side


def random_matrix(random: np.random.Generator, ranges: AugmentationRanges, side: int) -> np.ndarray:
    """Draw a transform (3, 3) for a square image of `side` px; the same numbers are drawn whatever the ranges are."""
    flip = np.where(random.random(2) < ranges.flip, -1.0, 1.0)
    unit = random.uniform(-1, 1, size=6)
    shear, rotation = ranges.shear_rad * unit[2], ranges.rotation_rad * unit[3]
    return compose(side, flip, 1 + ranges.scale * unit[:2], shear, rotation, ranges.translation * unit[4:] * side)


def compose(side: int, flip=(1, 1), scale=(1, 1), shear: float = 0, rotation: float = 0, shift=(0, 0)) -> np.ndarray:
    """The matrix p -> c + t + R H S F (p - c), float64 (3, 3). Pairs are x, y; angles in rad; shift in px."""
    cosine, sine = np.cos(rotation), np.sin(rotation)
    rotate = np.array([[cosine, -sine], [sine, cosine]])
    skew = np.array([[1.0, np.tan(shear)], [0.0, 1.0]])
    linear = rotate @ skew @ np.diag(np.asarray(scale, float) * np.asarray(flip, float))
    centre = np.full(2, (side - 1) / 2)
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre + np.asarray(shift, float) - linear @ centre
    return matrix


def warp_slices(slices: np.ndarray, matrix: np.ndarray, air: int) -> np.ndarray:
    """Slices (n, S, S) int16 HU resampled linearly; what comes from outside the image is `air` (HU)."""
    return np.rint(_warp(slices.astype(np.float32), matrix, cv2.INTER_LINEAR, air)).astype(slices.dtype)


def warp_masks(masks: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Masks (n, S, S), bool or uint8, resampled with the nearest pixel, 0 outside: uint8."""
    return _warp(masks.view(np.uint8), matrix, cv2.INTER_NEAREST, 0)


def _warp(planes: np.ndarray, matrix: np.ndarray, interpolation: int, border: int) -> np.ndarray:
    warped = np.empty_like(planes)
    for plane, result in zip(planes, warped, strict=True):  # OpenCV is fastest on one plane at a time
        cv2.warpAffine(plane, matrix[:2], plane.shape[::-1], result, interpolation, cv2.BORDER_CONSTANT, border)
    return warped


def transform_box(box: np.ndarray, points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The box (4,) of a lesion after the transform (3, 3), float64; see the top of this file.

    `points`: (m, 2) what the box was drawn around: RECIST end points, or the outline of a mask, px; points outside the
    box (it was cut at the border of the image) count as lying on its edge.
    """
    points = np.clip(points, box[:2], box[2:])
    margin = np.concatenate([points.min(axis=0) - box[:2], box[2:] - points.max(axis=0)])  # left, top, right, bottom
    arrows = np.array([[-margin[0], 0], [0, -margin[1]], [margin[2], 0], [0, margin[3]]]) @ matrix[:2, :2].T
    moved = points @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate([moved.min(axis=0) + arrows.min(axis=0), moved.max(axis=0) + arrows.max(axis=0)])


def keep_inside(boxes: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) cut to the image, and which to keep (n,): those whose centre lies in the image.

    The image reaches from -0.5 to side - 0.5, the outer borders of its pixels.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = ((centre > -HALF_PIXEL) & (centre < side - HALF_PIXEL)).all(axis=1)
    return box_math.clip(boxes + HALF_PIXEL, side, side) - HALF_PIXEL, inside


def mask_points(mask: np.ndarray) -> np.ndarray:
    """Corners (m, 2) float64 x, y of the convex hull of a mask (S, S); empty for an empty mask."""
    pixels = np.argwhere(mask)[:, ::-1].astype(np.int32)
    return cv2.convexHull(pixels)[:, 0].astype(np.float64) if len(pixels) else np.zeros((0, 2))


def ellipse_points(box: np.ndarray) -> np.ndarray:
    """Points (m, 2) of the ellipse that fills a box: the outline assumed where neither RECIST nor mask is known."""
    angle = np.linspace(0, 2 * np.pi, ELLIPSE_POINTS, endpoint=False)
    centre, radius = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2
    return centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
