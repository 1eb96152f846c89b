"""The drawing board of the phantom: HU and tissue labels of one slice, filled by contours and tubes given in mm.

Body coordinates are mm: x to the right of the picture (the patient's left), y to the back, z towards the feet; the
origin of x and y lies in the middle of the body. Contours are cut out of solids, so that neighbouring slices agree.
"""

from dataclasses import dataclass
from enum import IntEnum

import cv2
import numpy as np

ANGLES = np.linspace(0, 2 * np.pi, 72, endpoint=False)
SUBPIXEL_BITS = 4


class Label(IntEnum):
    """What a pixel belongs to."""

    AIR, TABLE, SKIN, FAT, MUSCLE, BONE, CANAL, DISC = range(8)
    LUNG, MEDIASTINUM, HEART, VESSEL, AIRWAY, ESOPHAGUS = range(8, 14)
    PERITONEUM, LIVER, GALLBLADDER, SPLEEN, PANCREAS, STOMACH, KIDNEY, ADRENAL, BOWEL, COLON = range(14, 24)
    BLADDER, WOMB_PROSTATE, NODE = range(24, 27)


@dataclass(frozen=True)
class Waves:
    """Smooth irregularity of an outline that drifts with z: relative radius 1 + sum of cosines."""

    amplitude: np.ndarray  # (m,) for the angular frequencies 2 to m + 1
    phase: np.ndarray  # (m,)
    drift: np.ndarray  # (m,) radians per mm of z

    def __call__(self, angles: np.ndarray, z: float) -> np.ndarray:
        order = np.arange(2, 2 + len(self.amplitude))[:, None]
        return 1 + self.amplitude @ np.cos(order * angles + (self.phase + self.drift * z)[:, None])


def random_waves(rng: np.random.Generator, amplitude: float, orders: int = 5, drift: float = 0.02) -> Waves:
    """Waves of about the given relative amplitude, weaker at higher frequencies."""
    share = rng.uniform(0.3, 1.0, orders) / np.arange(1, orders + 1)
    return Waves(amplitude * share, rng.uniform(0, 2 * np.pi, orders), rng.normal(0, drift, orders))


def superellipse(centre, radii, tilt: float = 0.0, power: float = 2.0, factor: np.ndarray | float = 1.0) -> np.ndarray:
    """Closed contour (72, 2) in mm; `factor` scales the radius per angle of ANGLES, `power` above 2 squares it."""
    cos, sin = np.cos(ANGLES), np.sin(ANGLES)
    radius = (np.abs(cos / radii[0]) ** power + np.abs(sin / radii[1]) ** power) ** (-1 / power) * factor
    x, y = radius * cos, radius * sin
    c, s = np.cos(tilt), np.sin(tilt)
    return np.stack([centre[0] + c * x - s * y, centre[1] + s * x + c * y], axis=1)


def fill_mask(shape: tuple[int, int], contour_px: np.ndarray) -> np.ndarray:
    """uint8 mask (H, W), 1 inside the contour given in 0-based pixels."""
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [_fixed(contour_px)], 1, shift=SUBPIXEL_BITS)
    return mask


def _fixed(points_px: np.ndarray) -> np.ndarray:
    return np.rint(points_px * (1 << SUBPIXEL_BITS)).astype(np.int32)


class Canvas:
    """HU (float32) and labels (uint8) of one square slice; every method paints in place."""

    def __init__(self, size: int, spacing: float, offset: tuple[float, float] = (0.0, 0.0)):
        """A slice of `size` px a side, `spacing` mm per px; the body lies `offset` mm from the picture's centre."""
        self.size, self.spacing = size, spacing
        self.origin = (size - 1) / 2 + np.asarray(offset) / spacing
        self.hu = np.full((size, size), -1000, np.float32)
        self.label = np.zeros((size, size), np.uint8)

    def to_px(self, points_mm: np.ndarray) -> np.ndarray:
        """0-based pixel coordinates of points in mm (…, 2)."""
        return np.asarray(points_mm) / self.spacing + self.origin

    def to_mm(self, points_px: np.ndarray) -> np.ndarray:
        """The inverse of `to_px`."""
        return (np.asarray(points_px) - self.origin) * self.spacing

    def fill(self, contour: np.ndarray, label: Label, hu: float, within: tuple[Label, ...] = ()) -> None:
        """Fill a contour (n, 2) in mm, only over the labels `within` if any are given."""
        points = self.to_px(contour)
        if not within:
            cv2.fillPoly(self.hu, [_fixed(points)], float(hu), shift=SUBPIXEL_BITS)
            cv2.fillPoly(self.label, [_fixed(points)], int(label), shift=SUBPIXEL_BITS)
            return
        low = np.clip(np.floor(points.min(axis=0)).astype(int) - 1, 0, self.size)
        high = np.clip(np.ceil(points.max(axis=0)).astype(int) + 2, 0, self.size)
        if (high <= low).any():
            return
        part = np.s_[low[1] : high[1], low[0] : high[0]]
        self._assign(part, fill_mask(self.label[part].shape, points - low), label, hu, within)

    def lines(
        self, ends: np.ndarray, radii: np.ndarray, label: Label | None, hu: float, within: tuple[Label, ...] = ()
    ) -> None:
        """Draw thick segments (n, 2, 2) of radii (n,) in mm; label None keeps what the tissue is called."""
        if not len(ends):
            return
        points = self.to_px(ends)
        reach = float(radii.max()) / self.spacing + 2
        low = np.clip(np.floor(points.min(axis=(0, 1)) - reach).astype(int), 0, self.size)
        high = np.clip(np.ceil(points.max(axis=(0, 1)) + reach).astype(int) + 1, 0, self.size)
        part = np.s_[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(self.label[part].shape, np.uint8)
        if not mask.size:
            return
        fixed = _fixed(points - low)
        widths = np.maximum(np.rint(2 * radii / self.spacing), 1).astype(int)
        for (a, b), width in zip(fixed.tolist(), widths.tolist(), strict=True):
            cv2.line(mask, a, b, 1, width, cv2.LINE_8, SUBPIXEL_BITS)
        self._assign(part, mask, label, hu, within)

    def _assign(self, part, mask: np.ndarray, label: Label | None, hu: float, within: tuple[Label, ...]) -> None:
        chosen = mask.astype(bool)
        if within:
            allowed = np.zeros(256, bool)
            allowed[list(within)] = True
            chosen &= allowed[self.label[part]]
        self.hu[part][chosen] = hu
        if label is not None:
            self.label[part][chosen] = label


@dataclass(frozen=True)
class Tubes:
    """Straight pieces of vessel, airway or bowel in three dimensions, mm."""

    ends: np.ndarray  # (n, 2, 3)
    radii: np.ndarray  # (n,)

    def cut(self, z: float, shrink: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sections with the plane at z: in-plane ends (m, 2, 2), radii (m,), and which pieces they come from (m,).

        A piece that crosses steeply leaves a disc, an oblique one a capsule of the ellipse's length, one within the
        plane a band. `shrink` mm are taken off the radius (the lumen of a wall).
        """
        start, step = self.ends[:, 0], self.ends[:, 1] - self.ends[:, 0]
        radii = self.radii - shrink
        low, high = np.minimum(start[:, 2], self.ends[:, 1, 2]), np.maximum(start[:, 2], self.ends[:, 1, 2])
        away = np.maximum(np.maximum(low - z, z - high), 0)
        which = np.flatnonzero(away < radii)
        start, step, away, radii = start[which], step[which], away[which], radii[which]
        rise = np.where(np.abs(step[:, 2]) < 1e-6, 1e-6, step[:, 2])
        reach = radii * np.tan(np.arctan2(np.hypot(step[:, 0], step[:, 1]), np.abs(rise)) / 2)
        at = np.stack([(z - reach - start[:, 2]) / rise, (z + reach - start[:, 2]) / rise], axis=1)
        at = np.clip(at, 0, 1)[..., None]
        ends = start[:, None, :2] + at * step[:, None, :2]
        return ends, np.sqrt(radii**2 - away**2), which
