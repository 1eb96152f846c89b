"""One patient's trunk: outline, body wall and cavity, and organs as smooth solids placed in relative coordinates.

Levels t run along the body: 0 the tips of the lungs, about 1 the diaphragm, 2 the iliac crest, 3 the end of the pelvis.
Within a level, u and v go from -1 to 1 across the cavity (right to left of the patient, front to back).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lesionpipe.phantom.canvas import ANGLES, Label, Waves, random_waves, superellipse

LEVELS = (-0.02, 2.98)  # what a scan may cover


@dataclass(frozen=True)
class Body:
    """Sizes in mm of one patient."""

    half_width: float
    half_depth: float
    fat: float
    level_mm: float  # length of one unit of t
    organ: float  # size of bones and vessels relative to an average adult
    waves: Waves
    female: bool

    def level(self, z: float) -> float:
        return z / self.level_mm

    @cached_property
    def length(self) -> tuple[float, float]:
        """First and last z in mm that a scan may cover."""
        return LEVELS[0] * self.level_mm, LEVELS[1] * self.level_mm

    def outer(self, t: float, inset: float = 0.0) -> np.ndarray:
        """Contour of the skin, moved inwards by `inset` mm."""
        a, b = self.axes(t)
        # the back is flatter than the belly
        flat = 1 - 0.05 * np.exp(-(((ANGLES - np.pi / 2) / 0.5) ** 2))
        return superellipse((0, 0), (a - inset, b - inset), 0, 2.35, flat * self.waves(ANGLES, t * self.level_mm))

    def axes(self, t: float) -> tuple[float, float]:
        width = np.interp(t, [0, 0.25, 0.8, 1.4, 1.9, 2.3, 2.7, 3], [0.97, 0.96, 0.95, 0.94, 0.92, 0.96, 1.0, 0.97])
        depth = np.interp(t, [0, 0.25, 0.8, 1.4, 1.9, 2.3, 2.7, 3], [0.8, 0.9, 0.98, 1.0, 0.96, 0.95, 0.95, 0.9])
        return float(self.half_width * width), float(self.half_depth * depth)

    def fat_at(self, t: float) -> float:
        """Thickness of the subcutaneous fat, mm."""
        return float(self.fat * np.interp(t, [0, 0.5, 1.0, 2.0, 2.6, 3], [0.7, 0.6, 0.7, 1.0, 1.15, 1.2]))

    def wall_at(self, t: float) -> float:
        """Thickness of the muscular wall, mm; in the pelvis it holds the hip muscles."""
        return float(self.organ * np.interp(t, [0, 0.4, 0.9, 2.0, 2.35, 2.7, 3], [30, 19, 15, 13, 26, 40, 46]))

    def cavity(self, t: float) -> tuple[float, float]:
        """Half axes of the cavity in mm."""
        a, b = self.axes(t)
        inset = self.fat_at(t) + self.wall_at(t)
        return a - inset, b - 0.62 * inset - 4

    def cavity_contour(self, t: float, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
        a, b = self.cavity(t)
        return superellipse((0, shift * b - 3), (a * scale, b * scale), 0, 2.3, self.waves(ANGLES, t * self.level_mm))

    def point(self, u: float, v: float, t: float) -> np.ndarray:
        """(x, y, z) in mm of relative coordinates."""
        a, b = self.cavity(t)
        return np.array([u * a, v * b - 3, t * self.level_mm])


def random_body(rng: np.random.Generator, field_mm: float, female: bool) -> Body:
    """A trunk that fits a field of view of `field_mm`."""
    half_width = field_mm / 2 * rng.uniform(0.80, 0.96)
    stout = np.clip((half_width - 140) / 60, 0, 1)
    return Body(
        half_width=half_width,
        half_depth=half_width * (rng.uniform(0.61, 0.70) + 0.06 * stout),
        fat=float(rng.uniform(7, 14) + 24 * stout * rng.uniform(0.5, 1.0) + (3 if female else 0)),
        level_mm=float(rng.uniform(190, 225)),
        organ=float(np.clip(half_width / 165, 0.8, 1.12)),
        waves=random_waves(rng, 0.018, 3, 0.004),
        female=female,
    )


@dataclass(frozen=True)
class Organ:
    """A solid between two levels: key points (t, u, v) of its centre and (t, ru, rv) of its relative radii."""

    label: Label
    levels: tuple[float, float]
    centre: tuple[tuple[float, float, float], ...]
    radii: tuple[tuple[float, float, float], ...]
    tilt: float = 0.0
    power: float = 2.0
    wave: float = 0.06
    within: tuple[Label, ...] = (Label.PERITONEUM,)


@dataclass(frozen=True)
class PlacedOrgan:
    """An organ with one patient's variation."""

    organ: Organ
    shift: np.ndarray  # (2,) in u, v
    size: float
    waves: Waves

    def contour(
        self, body: Body, t: float, scale: float = 1.0, move: tuple[float, float] = (0, 0)
    ) -> np.ndarray | None:
        """Cross-section at level t in mm, None where the organ isn't; `move` is in units of its own radii."""
        first, last = self.organ.levels
        along = (2 * t - first - last) / (last - first)
        if abs(along) >= 0.995:
            return None
        cap = np.sqrt(1 - along**4) * self.size * scale
        a, b = body.cavity(t)
        ru, rv = (cap * r for r in _between(self.organ.radii, t))
        u, v = _between(self.organ.centre, t)
        centre = body.point(u + self.shift[0] + move[0] * ru, v + self.shift[1] + move[1] * rv, t)[:2]
        factor = self.waves(ANGLES, t * body.level_mm)
        return superellipse(centre, (max(ru * a, 0.5), max(rv * b, 0.5)), self.organ.tilt, self.organ.power, factor)


def _between(keys: tuple[tuple[float, float, float], ...], t: float) -> tuple[float, float]:
    """Both values of key points (t, a, b), interpolated at t."""
    levels, first, second = zip(*keys, strict=True)
    return float(np.interp(t, levels, first)), float(np.interp(t, levels, second))


def place_organ(rng: np.random.Generator, organ: Organ) -> PlacedOrgan:
    """One patient's version of an organ: moved, sized and shaped a little differently."""
    return PlacedOrgan(organ, rng.normal(0, 0.018, 2), float(rng.normal(1, 0.05)), random_waves(rng, organ.wave))
