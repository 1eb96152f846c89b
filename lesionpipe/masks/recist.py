"""RECIST diameters as shapes: quadrilateral, ellipse and trimap (paper, sec. 2.2 and Fig. 1b).

RECIST end points are a (4, 2) array of x, y: the two ends of the long diameter, then the two of the short one. Shapes
are drawn on a `PixelGrid`, which knows where its pixel centres lie on the slice: a lesion can be drawn coarse or fine.
"""

from typing import NamedTuple, Self

import numpy as np

TRIMAP_BACKGROUND, TRIMAP_FOREGROUND, TRIMAP_UNKNOWN = 0, 1, 2  # values of a trimap


class PixelGrid(NamedTuple):
    """Pixel centres on a slice: x (w,) and y (h,) in px of the slice, `factor` of them per px along each axis."""

    x: np.ndarray
    y: np.ndarray
    factor: int

    @classmethod
    def over(cls, x0: int, y0: int, width: int, height: int, factor: int = 1) -> Self:
        """The grid over the slice's pixels x0 … x0 + width - 1, y0 … y0 + height - 1, each divided `factor` times."""
        inner = (np.arange(factor) + 0.5) / factor - 0.5  # centres of the parts of a pixel whose own centre is 0
        x = (np.arange(x0, x0 + width)[:, None] + inner).ravel()
        y = (np.arange(y0, y0 + height)[:, None] + inner).ravel()
        return cls(x, y, factor)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.y), len(self.x)


class Ellipse(NamedTuple):
    """Centre x, y and half axes in px; `direction` (2,) is the unit vector along the first half axis."""

    centre: np.ndarray
    half_axes: tuple[float, float]
    direction: np.ndarray

    def stretched(self, factor: float) -> Self:
        """The same ellipse with its half axes `factor` times as long."""
        return self._replace(half_axes=(self.half_axes[0] * factor, self.half_axes[1] * factor))

    def draw(self, grid: PixelGrid) -> np.ndarray:
        """Pixels whose centre lies inside: bool (h, w); none where a half axis has no length."""
        dx, dy = grid.x[None, :] - self.centre[0], grid.y[:, None] - self.centre[1]
        along = dx * self.direction[0] + dy * self.direction[1]
        across = dy * self.direction[0] - dx * self.direction[1]
        a, b = self.half_axes
        if min(a, b) <= 0:
            return np.zeros(grid.shape, bool)
        return (along / a) ** 2 + (across / b) ** 2 <= 1


def ellipse(points: np.ndarray) -> Ellipse:
    """Ellipse with the two diameters as axes, turned like the long one, around the end points' mean (Tang et al.)."""
    long, short = points[1] - points[0], points[3] - points[2]
    length = float(np.hypot(*long))
    direction = long / length if length > 0 else np.array([1.0, 0.0])
    return Ellipse(points.mean(axis=0), (length / 2, float(np.hypot(*short)) / 2), direction)


def box_ellipse(box: np.ndarray, margin: tuple[float, float]) -> Ellipse:
    """Ellipse inscribed in a box xyxy less its margin (x, y); its half axes are at least half a px."""
    sides = np.maximum(box[2:] - box[:2] - 2 * np.asarray(margin), 1.0)
    return Ellipse((box[:2] + box[2:]) / 2, (float(sides[0]) / 2, float(sides[1]) / 2), np.array([1.0, 0.0]))


def quadrilateral(points: np.ndarray) -> np.ndarray:
    """Corners (n, 2) of the convex outline of the four end points, in turn around it; n is below 4 for degenerate ones.

    Where the diameters cross, as RECIST wants it, these are the end points connected consecutively: an end of the long
    diameter, one of the short, the other of the long, the other of the short (paper, sec. 2.2).
    """
    ordered = sorted({(float(x), float(y)) for x, y in points})
    lower, upper = _half_hull(ordered), _half_hull(ordered[::-1])
    return np.array(lower[:-1] + upper[:-1] if len(ordered) > 1 else ordered)


def _half_hull(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """One side of the convex outline of points in rising (or falling) order: those that turn left."""
    chain: list[tuple[float, float]] = []
    for point in ordered:
        while len(chain) > 1 and _turn(chain[-2], chain[-1], point) <= 0:
            chain.pop()
        chain.append(point)
    return chain


def _turn(a: tuple[float, float], b: tuple[float, float], c: tuple[float, float]) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def draw_quadrilateral(points: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """Pixels whose centre lies in the quadrilateral of the end points: bool (h, w); nothing where it has no area."""
    corners = quadrilateral(points)
    if len(corners) < 3:
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
    squared = float(along @ along)
    share = ((x - start[0]) * along[0] + (y - start[1]) * along[1]) / squared if squared > 0 else np.zeros_like(x + y)
    share = np.clip(share, 0, 1)
    return np.hypot(x - start[0] - share * along[0], y - start[1] - share * along[1])


def trimap(foreground: np.ndarray, box: np.ndarray, grid: PixelGrid) -> np.ndarray:
    """Trimap uint8 (h, w): sure background outside the box, sure foreground where given inside it, the rest unknown."""
    inside_x, inside_y = (grid.x >= box[0]) & (grid.x <= box[2]), (grid.y >= box[1]) & (grid.y <= box[3])
    inside = inside_x[None, :] & inside_y[:, None]
    return np.where(inside, np.where(foreground, TRIMAP_FOREGROUND, TRIMAP_UNKNOWN), TRIMAP_BACKGROUND).astype(np.uint8)
