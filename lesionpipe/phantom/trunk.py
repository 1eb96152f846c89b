"""What carries the trunk: table, skin, fat, muscles, ribs, spine and pelvis."""

import numpy as np

from lesionpipe.phantom.body import Body
from lesionpipe.phantom.canvas import ANGLES, Canvas, Label, superellipse
from lesionpipe.phantom.tissue import Tissue

VERTEBRA_MM = 29.0
RIB_GAP_MM = 26.0  # between neighbouring ribs, along the body
CAVITY = (Label.LUNG, Label.MEDIASTINUM, Label.PERITONEUM, Label.MUSCLE, Label.FAT)


def paint_wall(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    """Table, skin, fat, muscular wall and the (still empty) cavity."""
    _paint_table(canvas, body)
    if body.female and 0.4 < t < 0.95:
        _paint_breasts(canvas, body, t, tissue)
    canvas.fill(body.outer(t), Label.SKIN, tissue[Label.SKIN])
    canvas.fill(body.outer(t, 2.0), Label.FAT, tissue[Label.FAT])
    _, b = body.axes(t)
    fat = body.fat_at(t)
    inner = body.outer(t, fat) * [1, 1 - 0.25 * fat / b]
    canvas.fill(inner, Label.MUSCLE, tissue[Label.MUSCLE])
    _paint_planes(canvas, body, t, tissue)
    filling = Label.LUNG if t < 1.45 else Label.PERITONEUM
    canvas.fill(body.cavity_contour(t), filling, tissue[filling])


def _paint_table(canvas: Canvas, body: Body) -> None:
    x = np.linspace(-1.25, 1.25, 25) * body.half_width
    for down, thickness in ((4.0, 1.2), (26.0, 1.0)):
        y = body.half_depth + down - 22 * (x / body.half_width) ** 2 * (1 if down < 10 else 0.6)
        path = np.stack([x, y], axis=1)
        ends = np.stack([path[:-1], path[1:]], axis=1)
        canvas.lines(ends, np.full(len(ends), thickness), Label.TABLE, 60)


def _paint_breasts(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    a, b = body.axes(t)
    size = np.sqrt(max(1 - ((t - 0.67) / 0.27) ** 2, 0)) * (0.15 + 0.004 * body.fat) * a
    if size < 5:
        return
    for side in (-1, 1):
        centre = np.array([side * 0.47 * a, -0.83 * b])
        canvas.fill(superellipse(centre, (size * 1.25, size)), Label.SKIN, tissue[Label.SKIN])
        canvas.fill(superellipse(centre, (size * 1.25 - 2, size - 2)), Label.FAT, tissue[Label.FAT])
        gland = superellipse(centre - [0, 0.35 * size], (0.55 * size, 0.3 * size), 0, 2, 1 + 0.25 * np.cos(5 * ANGLES))
        canvas.fill(gland, Label.FAT, 15)


def _paint_planes(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    """Thin fat planes between the muscles of the wall, drifting with the level."""
    inner, outer = body.cavity_contour(t), body.outer(t, body.fat_at(t))
    for k, angle in enumerate(np.linspace(0.25, 2 * np.pi, 9)):
        at = int((angle + 0.3 * np.sin(4 * t + k)) / (2 * np.pi) * len(ANGLES)) % len(ANGLES)
        share = 0.45 + 0.25 * np.sin(3 * t + 2 * k)
        window = np.arange(at - 4, at + 5) % len(ANGLES)
        path = share * inner[window] + (1 - share) * outer[window]
        ends = np.stack([path[:-1], path[1:]], axis=1)
        canvas.lines(ends, np.full(len(ends), 0.8), Label.FAT, tissue[Label.FAT] + 15, (Label.MUSCLE,))


def paint_psoas(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    """The psoas beside the spine, moving to the front of the hip."""
    if not 1.5 < t < 2.95:
        return
    size = np.interp(t, [1.5, 1.9, 2.3, 2.9], [6, 17, 20, 16]) * body.organ
    for side in (-1, 1):
        u = np.interp(t, [1.5, 2.0, 2.4, 2.9], [0.2, 0.33, 0.55, 0.8])
        v = np.interp(t, [1.5, 2.0, 2.4, 2.9], [0.5, 0.42, 0.1, -0.45])
        centre = body.point(side * u, v, t)[:2]
        canvas.fill(superellipse(centre, (size, size * 1.2)), Label.MUSCLE, tissue[Label.MUSCLE])


def paint_bones(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    """Back muscles, spine, ribs, breastbone, shoulder blades and pelvis."""
    _paint_back(canvas, body, t, tissue)
    if t < 1.5:
        _paint_ribs(canvas, body, t, tissue)
    if 0.1 < t < 0.8:
        _bone(canvas, body.point(0, -1.06, t)[:2], (19 * body.organ, 6.5 * body.organ), tissue, 0.0)
    if t < 0.55:
        for side in (-1, 1):
            centre = body.point(side * (0.82 + 0.1 * t), 0.72 - 0.3 * t, t)[:2] * [1.03, 1.06]
            _bone(canvas, centre, (30 * body.organ * (1 - t), 4.0), tissue, -side * 0.75)
    if t > 1.95:
        _paint_pelvis(canvas, body, t, tissue)
    _paint_spine(canvas, body, t, tissue)


def _bone(canvas: Canvas, centre, radii, tissue: Tissue, tilt: float, shell: float = 2.0) -> None:
    """An oval bone: cortical shell and marrow."""
    canvas.fill(superellipse(centre, radii, tilt, 2.3), Label.BONE, tissue[Label.BONE] + 130)
    inner = np.asarray(radii) - shell
    if inner.min() > 0.8:
        canvas.fill(superellipse(centre, inner, tilt, 2.3), Label.BONE, tissue.marrow)


def _paint_back(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    size = np.interp(t, [0, 0.8, 1.8, 2.3, 2.7], [17, 19, 25, 17, 6]) * body.organ
    for side in (-1, 1):
        centre = (side * 1.25 * size, body.point(0, 0, t)[1] + spine_y(body, t) + 27 * body.organ)
        canvas.fill(superellipse(centre, (1.15 * size, 0.85 * size)), Label.MUSCLE, tissue[Label.MUSCLE], CAVITY)


def spine_y(body: Body, t: float) -> float:
    """y in mm of the middle of the vertebral bodies."""
    _, b = body.axes(t)
    return float(b * np.interp(t, [0, 0.5, 1.2, 1.9, 2.3, 2.7], [0.34, 0.42, 0.38, 0.34, 0.5, 0.64]))


def _paint_spine(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    if t > 2.85:
        return
    phase = (t * body.level_mm / VERTEBRA_MM) % 1
    o, y = body.organ, spine_y(body, t)
    sacrum = t > 2.12
    width = np.interp(t, [0, 0.8, 1.9, 2.12, 2.3, 2.6, 2.85], [14, 17, 22, 26, 42, 25, 8]) * o
    depth = np.interp(t, [0, 0.8, 1.9, 2.12, 2.3, 2.6, 2.85], [12, 15, 17, 16, 15, 9, 6]) * o
    _paint_arch(canvas, y, o * (0.6 if sacrum else 1.0), phase, depth, tissue)
    if phase > 0.8 and not sacrum:
        canvas.fill(superellipse((0, y), (width, depth), 0, 2.4), Label.DISC, tissue[Label.DISC])
    else:
        waist = 1 - 0.1 * np.sin(np.pi * phase / 0.8)
        _bone(canvas, (0, y), (width * waist, depth * waist), tissue, 0.0, 1.8)
    if t < 2.6:
        canal = (0, y + depth + 6.5 * o)
        canvas.fill(superellipse(canal, (9.5 * o, 7.5 * o)), Label.CANAL, tissue[Label.CANAL])


def _paint_arch(canvas: Canvas, y: float, size: float, phase: float, depth: float, tissue: Tissue) -> None:
    """Arch, spinous and transverse processes; they swell and shrink along each vertebra."""
    grown = size * (0.55 + 0.45 * np.cos(2 * np.pi * (phase - 0.45)))
    back = y + depth + 6.5 * size
    canvas.fill(superellipse((0, back), (14 * size, 11.5 * size)), Label.BONE, tissue[Label.BONE] + 60)
    spinous = [[0, back + 8 * size], [0, back + 12 * size + 16 * grown]]
    right = [[-11 * size, back], [-14 * size - 16 * grown, back + 4 * size]]
    left = [[11 * size, back], [14 * size + 16 * grown, back + 4 * size]]
    ends = np.array([spinous, right, left])
    canvas.lines(ends, np.array([2.6, 3.4, 3.4]) * size, Label.BONE, tissue[Label.BONE] - 40)


def _paint_ribs(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    """Ribs run obliquely, so a slice meets several of them, and each moves along the wall from slice to slice."""
    path = body.cavity_contour(t, 1.045)
    x, y = path[:, 0], path[:, 1]
    angle = np.unwrap(np.arctan2(y, x))
    phase = (t * body.level_mm / RIB_GAP_MM) % 1
    for side in (-1, 1):
        for k in range(7):
            place = (k + phase) / 7  # 0 beside the spine, 1 towards the breastbone
            if place > 0.86 or (t > 1.15 and place > 0.86 - 1.9 * (t - 1.15)):
                continue
            at = np.pi / 2 - side * (0.42 + place * 2.5)
            i = int(np.argmin(np.abs(np.angle(np.exp(1j * (angle - at))))))
            along = path[(i + 2) % len(path)] - path[i - 2]
            fine = np.array([np.interp(at, [at - 1, at + 1], [path[i, j], path[i, j]]) for j in (0, 1)])
            length = (13 - 5 * place) * body.organ
            _bone(canvas, fine, (length, 4.6 * body.organ), tissue, float(np.arctan2(along[1], along[0])), 1.6)


def _paint_pelvis(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    o = body.organ
    if t < 2.62:
        _paint_wing(canvas, body, t, tissue)
    if 2.5 < t < 2.88:
        grown = np.sqrt(max(1 - ((t - 2.69) / 0.19) ** 2, 0.05))
        for side in (-1, 1):
            centre = body.point(side * 0.98, 0.12, t)[:2]
            _bone(canvas, centre - np.array([side * 5 * o, 0]), (32 * o * grown, 33 * o * grown), tissue, 0, 5)
            canvas.fill(superellipse(centre, (27 * o * grown, 27 * o * grown)), Label.MUSCLE, 70)
            _bone(canvas, centre + np.array([side * 1.5, 0]), (25 * o * grown, 25 * o * grown), tissue, 0, 2.2)
    if t > 2.7:
        for side in (-1, 1):
            pubis = [body.point(side * 0.55, -0.5, t)[:2], body.point(side * 0.06, -0.72, t)[:2]]
            ischium = [body.point(side * 0.72, 0.45, t)[:2], body.point(side * 0.66, 0.62, t)[:2]]
            ends = np.array([pubis, ischium])
            canvas.lines(ends, np.array([6.0, 12.0]) * o, Label.BONE, tissue[Label.BONE] + 120)
            canvas.lines(ends, np.array([3.5, 9.0]) * o, Label.BONE, tissue.marrow)


def _paint_wing(canvas: Canvas, body: Body, t: float, tissue: Tissue) -> None:
    """The iliac wings: from beside the sacrum along the wall to the front."""
    reach = np.interp(t, [1.95, 2.15, 2.4, 2.62], [0.3, 1.0, 0.85, 0.35])
    start = np.interp(t, [1.95, 2.15, 2.62], [0.9, 0.55, 0.95])
    angle = np.pi / 2 - np.linspace(start, start + reach, 9)
    a, b = body.cavity(t)
    for side in (-1, 1):
        path = np.stack([side * 1.08 * a * np.cos(angle), 1.02 * b * np.sin(angle) - 3], axis=1)
        ends = np.stack([path[:-1], path[1:]], axis=1)
        width = np.linspace(8.5, 5.5, len(ends)) * body.organ
        canvas.lines(ends, width, Label.BONE, tissue[Label.BONE] + 160)
        canvas.lines(ends, width - 2.2, Label.BONE, tissue.marrow)
