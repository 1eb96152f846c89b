"""RECIST diameters as shapes: quadrilateral and ellipse (paper, sec. 2.2 and Fig. 1b).

RECIST end points are a (4, 2) array of x, y: the two ends of the long diameter, then the two of the short one. Shapes
are drawn on a `PixelGrid`, which knows where its pixel centres lie on the slice: a lesion can be drawn coarse or fine.
"""

from typing import NamedTuple, Self

import numpy as np
from scipy.spatial import ConvexHull, QhullError


class PixelGrid(NamedTuple):
    """Pixel centres on a slice: x (w,) and y (h,) in px of the slice."""

    x: np.ndarray
    y: np.ndarray

    @classmethod
    def over(cls, x0: int, y0: int, width: int, height: int, factor: int = 1) -> Self:
        """The grid over the slice's pixels x0 … x0 + width - 1, y0 … y0 + height - 1, each divided `factor` times."""
        inner = (np.arange(factor) + 0.5) / factor - 0.5  # centres of the parts of a pixel whose own centre is 0
        x, y = np.arange(x0, x0 + width)[:, None] + inner, np.arange(y0, y0 + height)[:, None] + inner
        return cls(x.ravel(), y.ravel())

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)


def diameters(points: np.ndarray) -> tuple[float, float]:
    """Lengths of the long and the short diameter in px."""
    return float(np.hypot(*(points[1] - points[0]))), float(np.hypot(*(points[3] - points[2])))


def draw_ellipse(points: np.ndarray, grid: PixelGrid, stretch: float = 1.0) -> np.ndarray:
    """Pixels whose centre lies in the ellipse of the end points: bool (h, w); none where a diameter has no length.

    Its axes are the two diameters, `stretch` times as long and turned like the long one, around the end points' mean.
    """
    long, short = diameters(points)
    if min(long, short) <= 0:
        return np.zeros(grid.shape, bool)
    (x, y), (cos, sin) = points.mean(axis=0), (points[1] - points[0]) / long
    dx, dy = grid.x[None, :] - x, grid.y[:, None] - y
    along, across = (dx * cos + dy * sin) / (long / 2 * stretch), (dy * cos - dx * sin) / (short / 2 * stretch)
    return along**2 + across**2 <= 1


def crossing(points: np.ndarray) -> tuple[float, float] | None:
    """Where the diameters cross: shares of the long and of the short one, from the first end; None: nowhere inside."""
    long, short, between = points[1] - points[0], points[3] - points[2], points[2] - points[0]
    area = _cross(long, short)
    if area == 0:
        return None
    shares = float(_cross(between, short) / area), float(_cross(between, long) / area)
    return shares if all(0 < share < 1 for share in shares) else None


def draw_quarter_ellipses(points: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """Pixels inside four quarter ellipses, one between each two neighbouring end points: bool (h, w) (Tang et al.).

    Their half axes reach from where the diameters cross to the end points, so that the outline passes through all four,
    also where the diameters don't halve each other or aren't perpendicular (the axes are oblique then). Nothing where
    the diameters don't cross.
    """
    shares = crossing(points)
    if shares is None:
        return np.zeros(grid.shape, bool)
    long, short = points[1] - points[0], points[3] - points[2]
    away = np.stack(np.meshgrid(grid.x, grid.y), axis=-1) - (points[0] + shares[0] * long)  # (h, w, 2)
    along, across = _cross(away, short) / _cross(long, short), _cross(long, away) / _cross(long, short)
    half_long = np.where(along < 0, shares[0], 1 - shares[0])  # in lengths of the diameter, as `along` is
    half_short = np.where(across < 0, shares[1], 1 - shares[1])
    return (along / half_long) ** 2 + (across / half_short) ** 2 <= 1


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """z of the cross product of vectors (…, 2), broadcast against each other."""
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def box_points(box: np.ndarray, margin: tuple[float, float]) -> np.ndarray:
    """End points (4, 2) whose diameters fill a box xyxy less its margin (x, y), each at least 1 px long."""
    centre, half = (box[:2] + box[2:]) / 2, np.maximum(box[2:] - box[:2] - 2 * np.asarray(margin), 1.0) / 2
    return centre + half * [[-1, 0], [1, 0], [0, -1], [0, 1]]


def draw_quadrilateral(points: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """Pixels whose centre lies in the convex outline of the end points: bool (h, w); nothing where it has no area.

    Where the diameters cross, as RECIST wants it, that connects the end points consecutively: one of the long diameter,
    one of the short, the other of the long, the other of the short (paper, sec. 2.2).
    """
    try:
        corners = points[ConvexHull(points).vertices]
    except QhullError:
        return np.zeros(grid.shape, bool)
    inside = np.ones(grid.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        inside &= (bx - ax) * (grid.y[:, None] - ay) - (by - ay) * (grid.x[None, :] - ax) >= 0
    return inside


def draw_diameters(points: np.ndarray, grid: PixelGrid, radius: float) -> np.ndarray:
    """Pixels whose centre lies within `radius` px of either diameter, which is a dilation of it: bool (h, w)."""
    x, y = grid.x[None, :], grid.y[:, None]
    return (_distance(x, y, *points[:2]) <= radius) | (_distance(x, y, *points[2:]) <= radius)


def _distance(x: np.ndarray, y: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of the points x (1, w), y (h, 1) from the segment start–end."""
    along = end - start
    squared = max(float(along @ along), np.finfo(float).tiny)  # a segment without length is a point
    share = np.clip(((x - start[0]) * along[0] + (y - start[1]) * along[1]) / squared, 0, 1)
    return np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])
