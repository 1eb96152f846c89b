"""From one lesion's weak label to its mask: the chosen method, its guards, and its fallbacks (paper, sec. 2.2).

| method | sure foreground | sure background | rest |
|---|---|---|---|
| grabcut | the RECIST quadrilateral | outside the box, and beyond the RECIST ellipse times a factor | GrabCut |
| box-dilation (Cai et al.) | the diameters, dilated | outside the extent of the diameters | GrabCut |
| ellipse (Tang et al.) | – | – | the RECIST ellipse |

Where a method fails: the ellipse, then the quadrilateral, then the ellipse inscribed in the box (`box-ellipse`), which
always exists. Without usable RECIST points it's the last one at once. So every lesion has a mask of at least one px.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from lesionpipe.data.stored.schema import RECIST_MARGIN_PX
from lesionpipe.masks import grabcut, recist
from lesionpipe.masks.grabcut import Crop, Failure
from lesionpipe.masks.recist import Ellipse, PixelGrid

PLAUSIBLE_AREA = (0.8, 1.6)  # of a GrabCut mask, in areas of the RECIST ellipse (the seeds alone: 0.64)


@dataclass(frozen=True)
class MaskSettings:
    """How masks are made: the section `masks` of the parameters, as values.

    crop_margin: of the crop around the box, in box sides. background_ellipse_factor: beyond the RECIST ellipse
    stretched by it all is sure background; None: only outside the box (paper). full_slice: no crop (paper).
    """

    method: Literal["grabcut", "ellipse", "box-dilation"]
    crop_margin: float
    background_ellipse_factor: float | None
    full_slice: bool
    iterations: int


class WeakLabel(NamedTuple):
    """What a radiologist left of one lesion, in px of the stored slice.

    box (4,) xyxy, finite; points (4, 2), long diameter then short, or None; window (low, high) in HU, NaN where
    unknown; recist_margin (x, y): what the box leaves around the points, `RECIST_MARGIN_PX` of the archive's slice.
    """

    box: np.ndarray
    points: np.ndarray | None
    window: tuple[float, float]
    recist_margin: tuple[float, float]


class LesionMask(NamedTuple):
    """A mask (h, w) bool whose first px is x0, y0 of the slice, the method that made it, and why not the chosen one."""

    x0: int
    y0: int
    mask: np.ndarray
    method: str
    reason: str


class CropGrid(NamedTuple):
    """Where a lesion's mask is drawn: a crop of the slice, its px divided `grid.factor` times."""

    crop: Crop
    grid: PixelGrid


def make_mask(hu: np.ndarray, label: WeakLabel, settings: MaskSettings) -> LesionMask:
    """The mask of one lesion, cut to its own extent; never empty, always within the slice.

    Args:
        hu: int16 (S, S), the lesion slice.
        label: its box, end points and window.
    """
    label = label._replace(box=usable_box(label.box, len(hu)))
    where = crop_grid(label.box, len(hu), settings)
    reason = ""
    for method, drawn in _candidates(hu, label, where, settings):
        mask = drawn if isinstance(drawn, Failure) else grabcut.coarsened(drawn, where.grid.factor)
        if isinstance(mask, np.ndarray) and mask.any():
            return _cut_out(mask, where.crop, method, reason)
        reason = reason or (mask.reason if isinstance(mask, Failure) else f"empty {method}")
    x, y = np.clip(np.rint((label.box[:2] + label.box[2:]) / 2), 0, len(hu) - 1).astype(int)
    return LesionMask(int(x), int(y), np.ones((1, 1), bool), "box-ellipse", reason)


def crop_grid(box: np.ndarray, side: int, settings: MaskSettings) -> CropGrid:
    """The box with its margin, px divided where the lesion is small; or the whole slice as it is."""
    if settings.full_slice:
        return CropGrid(Crop(0, 0, side, side), PixelGrid.over(0, 0, side, side))
    crop = grabcut.crop_around(box, settings.crop_margin, side)
    return CropGrid(crop, PixelGrid.over(*crop, factor=grabcut.refinement(box)))


def usable_box(box: np.ndarray, side: int) -> np.ndarray:
    """The box within the slice, its corners in order, at least 1 px wide and high."""
    corners = np.clip(np.sort(np.reshape(box, (2, 2)), axis=0), 0, side - 1)
    centre, half = corners.mean(axis=0), np.maximum(corners[1] - corners[0], 1.0) / 2
    return np.concatenate([centre - half, centre + half])


def usable_points(label: WeakLabel) -> np.ndarray | Failure:
    """The end points, unless they are missing or lie farther outside the box than its margin."""
    points, margin = label.points, np.asarray(label.recist_margin)
    if points is None or not np.isfinite(points).all():
        return Failure("no RECIST points")
    if (points < label.box[:2] - margin).any() or (points > label.box[2:] + margin).any():
        return Failure("RECIST points outside the box")
    return points


def trimap_of(method: str, label: WeakLabel, grid: PixelGrid, background_ellipse_factor: float | None) -> np.ndarray:
    """The trimap uint8 (h, w) from which `method` (grabcut or box-dilation) starts; `label.points` are usable."""
    points = label.points
    if method == "box-dilation":
        extent = np.concatenate([points.min(axis=0), points.max(axis=0)])
        return recist.trimap(recist.draw_diameters(points, grid, dilation_radius(points)), extent, grid)
    trimap = recist.trimap(recist.draw_quadrilateral(points, grid), label.box, grid)
    if background_ellipse_factor is not None:
        beyond = ~recist.ellipse(points).stretched(background_ellipse_factor).draw(grid)
        trimap[beyond & (trimap == recist.TRIMAP_UNKNOWN)] = recist.TRIMAP_BACKGROUND
    return trimap


def dilation_radius(points: np.ndarray) -> float:
    """Radius in px by which the diameters are dilated to fill a tenth of twice their extent (Cai et al.)."""
    long, short = np.hypot(*(points[1] - points[0])), np.hypot(*(points[3] - points[2]))
    return float(0.2 * long * short / max(long + short, 1e-6))


def _candidates(
    hu: np.ndarray, label: WeakLabel, where: CropGrid, settings: MaskSettings
) -> Iterator[tuple[str, np.ndarray | Failure]]:
    """The method and then its fallbacks, each drawn on the grid only when it is its turn."""
    points = usable_points(label)
    if isinstance(points, Failure):
        yield settings.method, points
    else:
        ellipse = recist.ellipse(points)
        if settings.method != "ellipse":
            yield settings.method, _segmented(hu, label, ellipse, where, settings)
        yield "ellipse", ellipse.draw(where.grid)
        yield "quadrilateral", recist.draw_quadrilateral(points, where.grid)
    yield "box-ellipse", recist.box_ellipse(label.box, label.recist_margin).draw(where.grid)


def _segmented(
    hu: np.ndarray, label: WeakLabel, ellipse: Ellipse, where: CropGrid, settings: MaskSettings
) -> np.ndarray | Failure:
    """GrabCut from the method's trimap, unless its area is out of proportion to the RECIST ellipse."""
    (x0, y0, width, height), factor = where.crop, where.grid.factor
    hu = hu[y0 : y0 + height, x0 : x0 + width]
    unrefined = PixelGrid.over(*where.crop)
    unknown = trimap_of(settings.method, label, unrefined, settings.background_ellipse_factor) == recist.TRIMAP_UNKNOWN
    shown = grabcut.windowed(hu, grabcut.widened_window(label.window, hu[unknown]))
    noise = grabcut.NOISE_SIGMA_PX * min(label.recist_margin) / RECIST_MARGIN_PX  # from original px to stored px
    trimap = trimap_of(settings.method, label, where.grid, settings.background_ellipse_factor)
    expected = ellipse.draw(where.grid)
    image = grabcut.refined(shown, factor, noise)
    radius = grabcut.SMOOTHING_SHARE * min(ellipse.half_axes) * factor
    mask = grabcut.segment(image, trimap, expected, settings.iterations, radius)
    if isinstance(mask, Failure):
        return mask
    area = mask.sum() / max(expected.sum(), 1)
    if not PLAUSIBLE_AREA[0] <= area <= PLAUSIBLE_AREA[1]:
        return Failure(f"area {'below' if area < 1 else 'above'} proportion to the RECIST ellipse")
    return mask


def _cut_out(mask: np.ndarray, crop: Crop, method: str, reason: str) -> LesionMask:
    """A mask of a crop (h, w), cut to its extent."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    tight = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return LesionMask(crop.x0 + int(columns[0]), crop.y0 + int(rows[0]), tight, method, reason)
