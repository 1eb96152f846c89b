"""One patient's trunk: outline, body wall and cavity, and what carries them: table, fat, muscles, ribs, spine, pelvis.

Levels t run along the body: 0 the tips of the lungs, about 1 the diaphragm, 2 the iliac crest, 3 the end of the pelvis.
Within a level, u and v go from -1 to 1 across the cavity (right to left of the patient, front to back).
"""

import numpy as np
from numpy.random import Generator

from lesionpipe.phantom.canvas import ANGLES, Canvas, Label, pieces, random_waves, superellipse

VERTEBRA_MM = 29.0
RIB_GAP_MM = 26.0  # between neighbouring ribs, along the body
CAVITY = (Label.LUNG, Label.MEDIASTINUM, Label.PERITONEUM, Label.MUSCLE, Label.FAT)


class Body:
    """Sizes in mm of one patient, whose trunk fits a field of view of `field_mm`."""

    def __init__(self, rng: Generator, field_mm: float, female: bool):
        self.female = female
        self.half_width = field_mm / 2 * rng.uniform(0.80, 0.96)
        stout = np.clip((self.half_width - 140) / 60, 0, 1)
        self.half_depth = self.half_width * (rng.uniform(0.61, 0.70) + 0.06 * stout)
        self.fat = rng.uniform(7, 14) + 24 * stout * rng.uniform(0.5, 1.0) + (3 if female else 0)
        self.level_mm = rng.uniform(190, 225)  # length of one unit of t
        self.organ = np.clip(self.half_width / 165, 0.8, 1.12)  # bones and vessels relative to an average adult
        self.waves = random_waves(rng, 0.018, 3, 0.004)

    def level(self, z: float) -> float:
        return z / self.level_mm

    def outer(self, t: float, inset: float = 0.0) -> np.ndarray:
        """Contour of the skin, moved inwards by `inset` mm."""
        a, b = self.axes(t)
        # the back is flatter than the belly
        flat = 1 - 0.05 * np.exp(-(((ANGLES - np.pi / 2) / 0.5) ** 2))
        return superellipse((0, 0), (a - inset, b - inset), 0, 2.35, flat * self.waves.at(t * self.level_mm))

    def axes(self, t: float) -> tuple[float, float]:
        width = np.interp(t, [0, 0.25, 0.8, 1.4, 1.9, 2.3, 2.7, 3], [0.97, 0.96, 0.95, 0.94, 0.92, 0.96, 1.0, 0.97])
        depth = np.interp(t, [0, 0.25, 0.8, 1.4, 1.9, 2.3, 2.7, 3], [0.8, 0.9, 0.98, 1.0, 0.96, 0.95, 0.95, 0.9])
        return self.half_width * width, self.half_depth * depth

    def fat_at(self, t: float) -> float:
        """Thickness of the subcutaneous fat, mm."""
        return self.fat * np.interp(t, [0, 0.5, 1.0, 2.0, 2.6, 3], [0.7, 0.6, 0.7, 1.0, 1.15, 1.2])

    def cavity(self, t: float) -> tuple[float, float]:
        """Half axes of the cavity in mm, within fat and muscular wall; in the pelvis that holds the hip muscles."""
        a, b = self.axes(t)
        wall = self.organ * np.interp(t, [0, 0.4, 0.9, 2.0, 2.35, 2.7, 3], [30, 19, 15, 13, 26, 40, 46])
        inset = self.fat_at(t) + wall
        return a - inset, b - 0.62 * inset - 4

    def cavity_contour(self, t: float, scale: float = 1.0, shift: float = 0.0) -> np.ndarray:
        a, b = self.cavity(t)
        return superellipse((0, shift * b - 3), (a * scale, b * scale), 0, 2.3, self.waves.at(t * self.level_mm))

    def point(self, u: float, v: float, t: float) -> np.ndarray:
        """(…, 3) mm of relative coordinates, which may be arrays (…)."""
        a, b = self.cavity(t)
        return np.stack([u * a, v * b - 3, t * self.level_mm], axis=-1)


def paint_wall(canvas: Canvas, body: Body, t: float) -> None:
    """Table, skin, fat, muscular wall and the (still empty) cavity."""
    _paint_table(canvas, body)
    if body.female and 0.4 < t < 0.95:
        _paint_breasts(canvas, body, t)
    canvas.fill(body.outer(t), Label.SKIN)
    canvas.fill(body.outer(t, 2.0), Label.FAT)
    fat, (_, b) = body.fat_at(t), body.axes(t)
    canvas.fill(body.outer(t, fat) * [1, 1 - 0.25 * fat / b], Label.MUSCLE)
    _paint_planes(canvas, body, t)
    canvas.fill(body.cavity_contour(t), Label.LUNG if t < 1.45 else Label.PERITONEUM)


def _paint_table(canvas: Canvas, body: Body) -> None:
    x = np.linspace(-1.25, 1.25, 25) * body.half_width
    for down, thickness, curved in ((4.0, 1.2, 1.0), (26.0, 1.0, 0.6)):
        y = body.half_depth + down - 22 * (x / body.half_width) ** 2 * curved
        canvas.lines(pieces(np.stack([x, y], axis=1)), np.full(24, thickness), Label.TABLE, 60)


def _paint_breasts(canvas: Canvas, body: Body, t: float) -> None:
    a, b = body.axes(t)
    size = np.sqrt(max(1 - ((t - 0.67) / 0.27) ** 2, 0)) * (0.15 + 0.004 * body.fat) * a
    if size < 5:
        return
    for side in (-1, 1):
        centre = np.array([side * 0.47 * a, -0.83 * b])
        canvas.fill(superellipse(centre, (size * 1.25, size)), Label.SKIN)
        canvas.fill(superellipse(centre, (size * 1.25 - 2, size - 2)), Label.FAT)
        gland = superellipse(centre - [0, 0.35 * size], (0.55 * size, 0.3 * size), 0, 2, 1 + 0.25 * np.cos(5 * ANGLES))
        canvas.fill(gland, Label.FAT, 15)


def _paint_planes(canvas: Canvas, body: Body, t: float) -> None:
    """Thin fat planes between the muscles of the wall, drifting with the level."""
    inner, outer = body.cavity_contour(t), body.outer(t, body.fat_at(t))
    for k, angle in enumerate(np.linspace(0.25, 2 * np.pi, 9)):
        at = int((angle + 0.3 * np.sin(4 * t + k)) / (2 * np.pi) * len(ANGLES)) % len(ANGLES)
        share = 0.45 + 0.25 * np.sin(3 * t + 2 * k)
        window = np.arange(at - 4, at + 5) % len(ANGLES)
        path = share * inner[window] + (1 - share) * outer[window]
        canvas.lines(pieces(path), np.full(8, 0.8), Label.FAT, canvas.tissue[Label.FAT] + 15, (Label.MUSCLE,))


def paint_psoas(canvas: Canvas, body: Body, t: float) -> None:
    """The psoas beside the spine, moving to the front of the hip."""
    if not 1.5 < t < 2.95:
        return
    size = np.interp(t, [1.5, 1.9, 2.3, 2.9], [6, 17, 20, 16]) * body.organ
    u = np.interp(t, [1.5, 2.0, 2.4, 2.9], [0.2, 0.33, 0.55, 0.8])
    v = np.interp(t, [1.5, 2.0, 2.4, 2.9], [0.5, 0.42, 0.1, -0.45])
    for side in (-1, 1):
        canvas.fill(superellipse(body.point(side * u, v, t)[:2], (size, size * 1.2)), Label.MUSCLE)


def paint_bones(canvas: Canvas, body: Body, t: float) -> None:
    """Back muscles, spine, ribs, breastbone, shoulder blades and pelvis."""
    _, b = body.axes(t)
    spine_y = b * np.interp(t, [0, 0.5, 1.2, 1.9, 2.3, 2.7], [0.34, 0.42, 0.38, 0.34, 0.5, 0.64])
    back = np.interp(t, [0, 0.8, 1.8, 2.3, 2.7], [17, 19, 25, 17, 6]) * body.organ
    for side in (-1, 1):
        centre = (side * 1.25 * back, -3 + spine_y + 27 * body.organ)
        canvas.fill(superellipse(centre, (1.15 * back, 0.85 * back)), Label.MUSCLE, within=CAVITY)
    if t < 1.5:
        _paint_ribs(canvas, body, t)
    if 0.1 < t < 0.8:
        _bone(canvas, body.point(0, -1.06, t)[:2], (19 * body.organ, 6.5 * body.organ))
    if t < 0.55:
        for side in (-1, 1):
            centre = body.point(side * (0.82 + 0.1 * t), 0.72 - 0.3 * t, t)[:2] * [1.03, 1.06]
            _bone(canvas, centre, (30 * body.organ * (1 - t), 4.0), -side * 0.75)
    if t > 1.95:
        _paint_pelvis(canvas, body, t)
    if t < 2.85:
        _paint_spine(canvas, body, t, spine_y)


def _bone(canvas: Canvas, centre, radii, tilt: float = 0.0, shell: float = 2.0) -> None:
    """An oval bone: cortical shell and marrow."""
    canvas.fill(superellipse(centre, radii, tilt, 2.3), Label.BONE, canvas.tissue[Label.BONE] + 130)
    inner = np.asarray(radii) - shell
    if inner.min() > 0.8:
        canvas.fill(superellipse(centre, inner, tilt, 2.3), Label.BONE, canvas.tissue.marrow)


def _paint_spine(canvas: Canvas, body: Body, t: float, y: float) -> None:
    """Vertebra or disc, arch and canal; `y` is the middle of the vertebral bodies in mm."""
    phase = (t * body.level_mm / VERTEBRA_MM) % 1
    o, sacrum = body.organ, t > 2.12
    width = np.interp(t, [0, 0.8, 1.9, 2.12, 2.3, 2.6, 2.85], [14, 17, 22, 26, 42, 25, 8]) * o
    depth = np.interp(t, [0, 0.8, 1.9, 2.12, 2.3, 2.6, 2.85], [12, 15, 17, 16, 15, 9, 6]) * o
    _paint_arch(canvas, y + depth, o * (0.6 if sacrum else 1.0), phase)
    if phase > 0.8 and not sacrum:
        canvas.fill(superellipse((0, y), (width, depth), 0, 2.4), Label.DISC)
    else:
        waist = 1 - 0.1 * np.sin(np.pi * phase / 0.8)
        _bone(canvas, (0, y), (width * waist, depth * waist), shell=1.8)
    if t < 2.6:
        canvas.fill(superellipse((0, y + depth + 6.5 * o), (9.5 * o, 7.5 * o)), Label.CANAL)


def _paint_arch(canvas: Canvas, front: float, size: float, phase: float) -> None:
    """Arch, spinous and transverse processes; they swell and shrink along each vertebra."""
    grown = size * (0.55 + 0.45 * np.cos(2 * np.pi * (phase - 0.45)))
    back = front + 6.5 * size
    canvas.fill(superellipse((0, back), (14 * size, 11.5 * size)), Label.BONE, canvas.tissue[Label.BONE] + 60)
    spinous = [[0, back + 8 * size], [0, back + 12 * size + 16 * grown]]
    right, left = ([[s * 11 * size, back], [s * (14 * size + 16 * grown), back + 4 * size]] for s in (-1, 1))
    widths = np.array([2.6, 3.4, 3.4]) * size
    canvas.lines(np.array([spinous, right, left]), widths, Label.BONE, canvas.tissue[Label.BONE] - 40)


def _paint_ribs(canvas: Canvas, body: Body, t: float) -> None:
    """Ribs run obliquely, so a slice meets several of them, and each moves along the wall from slice to slice."""
    path = body.cavity_contour(t, 1.045)
    angle = np.unwrap(np.arctan2(path[:, 1], path[:, 0]))
    phase = (t * body.level_mm / RIB_GAP_MM) % 1
    for side in (-1, 1):
        for place in (np.arange(7) + phase) / 7:  # 0 beside the spine, 1 towards the breastbone
            if place > 0.86 or (t > 1.15 and place > 0.86 - 1.9 * (t - 1.15)):
                continue
            at = np.pi / 2 - side * (0.42 + place * 2.5)
            i = int(np.argmin(np.abs(np.angle(np.exp(1j * (angle - at))))))
            along = path[(i + 2) % len(path)] - path[i - 2]
            radii = ((13 - 5 * place) * body.organ, 4.6 * body.organ)
            _bone(canvas, path[i], radii, np.arctan2(along[1], along[0]), 1.6)


def _paint_pelvis(canvas: Canvas, body: Body, t: float) -> None:
    o = body.organ
    if t < 2.62:
        _paint_wings(canvas, body, t)
    if 2.5 < t < 2.88:  # the hip joints
        grown = np.sqrt(max(1 - ((t - 2.69) / 0.19) ** 2, 0.05))
        for side in (-1, 1):
            centre = body.point(side * 0.98, 0.12, t)[:2]
            _bone(canvas, centre - [side * 5 * o, 0], (32 * o * grown, 33 * o * grown), shell=5)
            canvas.fill(superellipse(centre, (27 * o * grown, 27 * o * grown)), Label.MUSCLE, 70)
            _bone(canvas, centre + np.array([side * 1.5, 0]), (25 * o * grown, 25 * o * grown), shell=2.2)
    if t > 2.7:
        for side in (-1, 1):
            pubis = [body.point(side * 0.55, -0.5, t)[:2], body.point(side * 0.06, -0.72, t)[:2]]
            ischium = [body.point(side * 0.72, 0.45, t)[:2], body.point(side * 0.66, 0.62, t)[:2]]
            ends = np.array([pubis, ischium])
            canvas.lines(ends, np.array([6.0, 12.0]) * o, Label.BONE, canvas.tissue[Label.BONE] + 120)
            canvas.lines(ends, np.array([3.5, 9.0]) * o, Label.BONE, canvas.tissue.marrow)


def _paint_wings(canvas: Canvas, body: Body, t: float) -> None:
    """The iliac wings: from beside the sacrum along the wall to the front."""
    reach = np.interp(t, [1.95, 2.15, 2.4, 2.62], [0.3, 1.0, 0.85, 0.35])
    start = np.interp(t, [1.95, 2.15, 2.62], [0.9, 0.55, 0.95])
    angle = np.pi / 2 - np.linspace(start, start + reach, 9)
    a, b = body.cavity(t)
    width = np.linspace(8.5, 5.5, 8) * body.organ
    for side in (-1, 1):
        ends = pieces(np.stack([side * 1.08 * a * np.cos(angle), 1.02 * b * np.sin(angle) - 3], axis=1))
        canvas.lines(ends, width, Label.BONE, canvas.tissue[Label.BONE] + 160)
        canvas.lines(ends, width - 2.2, Label.BONE, canvas.tissue.marrow)
