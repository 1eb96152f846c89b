"""From the weak labels of a part's lesions to their masks: the method, its guards, its fallbacks (paper, sec. 2.2).

| method | sure foreground | sure background | rest |
|---|---|---|---|
| grabcut | the RECIST quadrilateral | outside the box, and beyond the RECIST ellipse times a factor | GrabCut |
| box-dilation (Cai et al.) | the diameters, dilated | outside the extent of the diameters | GrabCut |
| ellipse | – | – | the RECIST ellipse |
| quarter-ellipses (Tang et al.) | – | – | a quarter ellipse between each two end points |

Where a method fails: the ellipse, then the quadrilateral, then the ellipse inscribed in the box (`box-ellipse`), which
needs no RECIST points. So every lesion has a mask of at least one px.

`data/masks/NN.csv` has a line per mask: lesion, method (that made the mask), reason (why not the chosen method; empty
where it was), area_px.
"""

from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage

from lesionpipe.core.stage_files import check_table
from lesionpipe.data.stored.schema import BOX, RECIST, RECIST_MARGIN_PX
from lesionpipe.data.stored.slices import to_stored
from lesionpipe.masks import grabcut, recist
from lesionpipe.masks.grabcut import TRIMAP_BACKGROUND, TRIMAP_FOREGROUND, TRIMAP_UNKNOWN, NoMask
from lesionpipe.masks.recist import PixelGrid
from lesionpipe.params import Masks

PLAUSIBLE_AREA = (0.8, 1.6)  # of a GrabCut mask, in areas of the RECIST ellipse (the seeds alone: 0.64)
FALLBACKS = ("ellipse", "quadrilateral", "box-ellipse")
METHOD_COLUMNS = {"lesion": int, "method": str, "reason": str, "area_px": int}


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

    def on_slice(self, side: int) -> np.ndarray:
        """The mask at its place: bool (side, side)."""
        height, width = self.mask.shape
        return np.pad(self.mask, ((self.y0, side - self.y0 - height), (self.x0, side - self.x0 - width)))


def make_mask(hu: np.ndarray, label: WeakLabel, settings: Masks) -> LesionMask:
    """The mask of one lesion on its slice int16 (S, S): cut to its own extent, never empty, always within the slice."""
    label = label._replace(box=usable_box(label.box, len(hu)))
    crop = grabcut.crop_around(label.box, np.inf if settings.full_slice else settings.crop_margin, len(hu))
    reason = ""
    for method in dict.fromkeys((settings.method, *FALLBACKS)):
        try:
            mask = _mask_of_crop(hu, label, crop, settings, method)
        except NoMask as failure:
            reason = reason or str(failure)
        else:
            rows, columns = ndimage.find_objects(mask.astype(np.uint8))[0]
            return LesionMask(crop[0] + columns.start, crop[1] + rows.start, mask[rows, columns], method, reason)
    x, y = np.clip(np.rint((label.box[:2] + label.box[2:]) / 2), 0, len(hu) - 1).astype(int).tolist()
    return LesionMask(x, y, np.ones((1, 1), bool), FALLBACKS[-1], reason)


def usable_box(box: np.ndarray, side: int) -> np.ndarray:
    """The box within the slice, its corners in order, at least 1 px wide and high."""
    corners = np.clip(np.sort(np.reshape(box, (2, 2)), axis=0), 0, side - 1)
    centre, half = corners.mean(axis=0), np.maximum(corners[1] - corners[0], 1.0) / 2
    return np.concatenate([centre - half, centre + half])


def usable_points(label: WeakLabel) -> np.ndarray:
    """The end points, or `NoMask` where they are missing or lie farther outside the box than its margin."""
    points, margin = label.points, np.asarray(label.recist_margin)
    if points is None or not np.isfinite(points).all():
        raise NoMask("no RECIST points")
    if (points < label.box[:2] - margin).any() or (points > label.box[2:] + margin).any():
        raise NoMask("RECIST points outside the box")
    return points


def trimap_of(method: str, label: WeakLabel, grid: PixelGrid, background_ellipse_factor: float | None) -> np.ndarray:
    """The trimap uint8 (h, w) from which `method` (grabcut or box-dilation) starts; `label.points` are usable."""
    points, box = label.points, label.box
    if method == "box-dilation":
        box = np.concatenate([points.min(axis=0), points.max(axis=0)])
        foreground, unknown = recist.draw_diameters(points, grid, dilation_radius(points)), True
    else:
        foreground = recist.draw_quadrilateral(points, grid)
        factor = background_ellipse_factor
        unknown = True if factor is None else recist.draw_ellipse(points, grid, factor)
    inside = (grid.x >= box[0]) & (grid.x <= box[2]) & ((grid.y >= box[1]) & (grid.y <= box[3]))[:, None]
    trimap = np.where(foreground, TRIMAP_FOREGROUND, np.where(unknown, TRIMAP_UNKNOWN, TRIMAP_BACKGROUND))
    return np.where(inside, trimap, TRIMAP_BACKGROUND).astype(np.uint8)


def dilation_radius(points: np.ndarray) -> float:
    """Radius in px by which the diameters are dilated to fill a tenth of twice their extent (Cai et al.)."""
    long, short = recist.diameters(points)
    return 0.2 * long * short / max(long + short, 1e-6)


def _mask_of_crop(
    hu: np.ndarray, label: WeakLabel, crop: tuple[int, int, int, int], settings: Masks, method: str
) -> np.ndarray:
    """The mask by one method, bool (h, w) of the crop, drawn on divided px where the lesion is small; or `NoMask`."""
    factor = 1 if settings.full_slice else grabcut.refinement(label.box)
    grid = PixelGrid.over(*crop, factor)
    if method == "box-ellipse":
        drawn = recist.draw_ellipse(recist.box_points(label.box, label.recist_margin), grid)
    elif method == "quadrilateral":
        drawn = recist.draw_quadrilateral(usable_points(label), grid)
    elif method == "ellipse":
        drawn = recist.draw_ellipse(usable_points(label), grid)
    elif method == "quarter-ellipses":
        if recist.crossing(usable_points(label)) is None:
            raise NoMask("diameters don't cross")
        drawn = recist.draw_quarter_ellipses(usable_points(label), grid)
    else:
        drawn = _segmented(hu, label, crop, factor, settings)
    mask = grabcut.coarsened(drawn, factor)
    if not mask.any():
        raise NoMask(f"empty {method}")
    return mask


def _segmented(
    hu: np.ndarray, label: WeakLabel, crop: tuple[int, int, int, int], factor: int, settings: Masks
) -> np.ndarray:
    """GrabCut from the method's trimap, unless its area is out of proportion to the RECIST ellipse."""
    points, (x0, y0, width, height) = usable_points(label), crop
    hu = hu[y0 : y0 + height, x0 : x0 + width]
    coarse, grid = PixelGrid.over(*crop), PixelGrid.over(*crop, factor)
    unknown = trimap_of(settings.method, label, coarse, settings.background_ellipse_factor) == TRIMAP_UNKNOWN
    shown = grabcut.windowed(hu, grabcut.widened_window(label.window, hu[unknown]))
    noise = grabcut.NOISE_SIGMA_PX * min(label.recist_margin) / RECIST_MARGIN_PX  # from original px to stored px
    image = grabcut.refined(shown, factor, noise)
    trimap = trimap_of(settings.method, label, grid, settings.background_ellipse_factor)
    radius = grabcut.SMOOTHING_SHARE * min(recist.diameters(points)) / 2 * factor
    expected = recist.draw_ellipse(points, grid)
    mask = grabcut.segment(image, trimap, expected, settings.iterations, radius)
    area = mask.sum() / max(expected.sum(), 1)
    if not PLAUSIBLE_AREA[0] <= area <= PLAUSIBLE_AREA[1]:
        raise NoMask(f"area {'below' if area < 1 else 'above'} proportion to the RECIST ellipse")
    return mask


class SliceTask(NamedTuple):
    """The lesions of one slice: row `row` of the part's array (n, slices, S, S) of HU at `array`."""

    array: Path
    row: int
    lesions: tuple[tuple[int, WeakLabel], ...]  # lesion number and label


def slice_tasks(array: str | Path, index: pd.DataFrame, lesions: pd.DataFrame) -> list[SliceTask]:
    """One task per slice of a part's .npy and index that has lesions (rows of `data/lesions.csv`), in its order."""
    joined = lesions.merge(index[["row", "file_name", "scale_x", "scale_y"]], on="file_name")
    joined = joined.sort_values(["row", "lesion"])
    labelled = zip(joined["row"].tolist(), joined["lesion"].tolist(), _weak_labels(joined), strict=True)
    path = Path(array).absolute()
    of_rows = groupby(labelled, itemgetter(0))
    return [SliceTask(path, row, tuple((lesion, label) for _, lesion, label in found)) for row, found in of_rows]


def _weak_labels(lesions: pd.DataFrame) -> list[WeakLabel]:
    """One label per row of lesions that are joined with the scales of their slices."""
    scales = lesions[["scale_x", "scale_y"]].to_numpy(float)
    boxes = to_stored(lesions[BOX], *scales.T)
    points = to_stored(lesions[RECIST], *scales.T).reshape(-1, 4, 2)
    known = np.isfinite(points).all(axis=(1, 2))
    windows = map(tuple, lesions[["window_low_hu", "window_high_hu"]].to_numpy(float).tolist())
    margins = map(tuple, (RECIST_MARGIN_PX * scales).tolist())
    ends = [four if is_known else None for four, is_known in zip(points, known, strict=True)]
    return list(map(WeakLabel, boxes, ends, windows, margins))


def lesion_slice(task: SliceTask) -> np.ndarray:
    """int16 (S, S): the lesion slice, which lies in the middle of its stack."""
    stack = np.load(task.array, mmap_mode="r")[task.row]
    return np.array(stack[len(stack) // 2])


def masks_of_slice(task: SliceTask, settings: Masks) -> list[tuple[int, LesionMask]]:
    """Lesion number and mask of every lesion of a slice."""
    hu = lesion_slice(task)
    return [(lesion, make_mask(hu, label, settings)) for lesion, label in task.lesions]


def methods_table(made: Iterable[tuple[int, LesionMask]]) -> pd.DataFrame:
    """`METHOD_COLUMNS` of lesion numbers and their masks, in the order given."""
    rows = [(lesion, mask.method, mask.reason, int(mask.mask.sum())) for lesion, mask in made]
    return pd.DataFrame(rows, columns=list(METHOD_COLUMNS))


def read_methods_table(path: Path) -> pd.DataFrame:
    """`data/masks/NN.csv`, or `UserError` where it is missing or another table."""
    check_table(path, METHOD_COLUMNS | {"reason": object}, f"masks@{path.stem}")
    return pd.read_csv(path, keep_default_na=False, dtype=METHOD_COLUMNS)[list(METHOD_COLUMNS)]
