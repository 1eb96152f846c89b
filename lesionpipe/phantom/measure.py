"""RECIST as a radiologist would measure it, on a true mask: the longest diameter and the longest one across it."""

import cv2
import numpy as np

ACROSS_DEGREES = 8.0  # real short axes lie within about 6 degrees of the perpendicular in 90 % of the lesions


def boundary_pixels(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels (n, 2) as x, y of the largest part of a mask (h, w)."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    return max(contours, key=len)[:, 0].astype(np.int64)


def recist(mask: np.ndarray) -> np.ndarray:
    """End points (4, 2), x and y in 0-based pixels of the mask: long axis, then short axis.

    All four are boundary pixels; the short axis is the longest chord within ACROSS_DEGREES of the perpendicular (of the
    perpendicular half plane where a lesion is too small to have one).
    """
    points = boundary_pixels(mask)
    hull = cv2.convexHull(points.astype(np.int32))[:, 0].astype(np.int64)
    long = hull[list(_longest(hull, np.ones((len(hull), len(hull)), bool)))]
    direction = (long[1] - long[0]) / max(np.linalg.norm(long[1] - long[0]), 1e-9)
    steps = points[None] - points[:, None]
    length = np.hypot(steps[..., 0], steps[..., 1])
    for degrees in (ACROSS_DEGREES, 20, 45, 90):
        allowed = (np.abs(steps @ direction) <= np.sin(np.radians(degrees)) * length + 1e-9) & (length > 0)
        if allowed.any():
            break
    return np.concatenate([long, points[list(_longest(points, allowed))]])


def _longest(points: np.ndarray, allowed: np.ndarray) -> tuple[int, int]:
    steps = points[None] - points[:, None]
    squared = np.where(allowed, (steps**2).sum(axis=2), -1)
    first, second = np.unravel_index(int(squared.argmax()), squared.shape)
    return int(first), int(second)


def diameters(points: np.ndarray) -> tuple[float, float]:
    """Long and short diameter in px of end points (4, 2)."""
    long, short = points[1] - points[0], points[3] - points[2]
    return float(np.hypot(*long)), float(np.hypot(*short))
