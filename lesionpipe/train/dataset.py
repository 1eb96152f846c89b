"""Samples for training and validation: slices, lesion boxes and masks of one key slice, augmented (paper, sec. 3.1).

The random numbers of a sample come from (seed, epoch, index) and the order of an epoch from (seed, epoch), so neither
the number of loader workers nor an interruption changes what the network sees; the sampler yields (epoch, index) pairs.

Image, mask and boxes are transformed together. One 3x3 matrix does everything, in stored px: p' = c + t + R H S F (p -
c), with c the centre of the image, F flips, S = diag(sx, sy) scaling, H = [[1, tan h], [0, 1]] shear, R the rotation
and t the translation. A box of DeepLesion is the extent of the RECIST end points plus a margin of 5 px; so the box of a
transformed lesion is the extent of its transformed points plus the transformed margin, see `transform_box`. The corners
of the transformed old box, which would make it too large, are never used.

A crop (`train.crop`, see `crop_side`) is a square part of the transformed image around one of its lesions, at a random
place: what lies far from all lesions teaches little, so that the same arithmetic sees more lesions.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from torch.utils.data import Dataset, Sampler

from lesionpipe.anchors.grid import HALF_PIXEL
from lesionpipe.core import boxes as box_math
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.samples import Sample
from lesionpipe.data.stored.schema import BOX, RECIST
from lesionpipe.data.stored.slices import SliceStore, to_stored

ELLIPSE_POINTS = 32


class AugmentationRanges(NamedTuple):
    """Values of the section `train` (paper, sec. 3.1)."""

    flip: float  # probability of each flip
    rotation_rad: float  # largest angle
    shear_rad: float  # largest angle
    scale: float  # largest relative change of size
    translation: float  # largest shift, share of the image side
    crop_px: int | None = None  # side of the crop, px; None: the whole image


class SliceLesions(NamedTuple):
    """The n lesions of one slice, stored px."""

    numbers: np.ndarray  # (n,) as in data/lesions.csv
    boxes: np.ndarray  # (n, 4) float64
    recist: np.ndarray  # (n, 4, 2) float64, NaN where unknown


class LesionDataset(Dataset):
    """Key slices with their lesions; ``dataset[epoch, index]`` is augmented, ``dataset[index]`` is as stored.

    An augmented lesion whose centre leaves the image is dropped together with its mask.

    Args:
        slices, lesions: the key slices, and the rows of data/lesions.csv that count.
        masks: read for the samples' masks (if `with_masks`) and for lesions without RECIST points.
        ranges, seed: of the augmentation.
        air: HU of what lies outside the image, the lower end of the clipping range.
        negatives: rows of `data.hard_negatives.read_hard_negatives`, with which augmented samples come.
    """

    def __init__(
        self,
        slices: SliceStore,
        lesions: pd.DataFrame,
        masks: MaskStore,
        ranges: AugmentationRanges,
        seed: int,
        air: int,
        with_masks: bool,
        negatives: pd.DataFrame | None = None,
    ):
        self.slices, self.masks, self.ranges = slices, masks, ranges
        self.seed, self.air, self.with_masks = seed, air, with_masks
        self._keys, self._parts, self._rows = (slices.index[name].tolist() for name in ("file_name", "part", "row"))
        self._lesions = lesions_of_slices(slices.index, lesions)
        self._negatives = None if negatives is None else _boxes_of_slices(slices.index, negatives)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        if isinstance(item, tuple):
            return self._augmented(*item)
        masks = self._masks(item).view(np.uint8) if self.with_masks else None
        return Sample(self._keys[item], self.slices.slices(item), self._lesions[item].boxes.astype(np.float32), masks)

    def _augmented(self, epoch: int, index: int) -> Sample:
        hu, lesions = self.slices.slices(index), self._lesions[index]
        side = hu.shape[-1]
        random = np.random.default_rng([self.seed, epoch, index])
        matrix = random_matrix(random, self.ranges, side)
        masks = self._masks(index) if self.with_masks or np.isnan(lesions.recist).any() else None
        moved = [transform_box(box, _points(lesions, i, masks), matrix) for i, box in enumerate(lesions.boxes)]
        moved = np.array(moved).reshape(-1, 4)
        if self.ranges.crop_px is not None:
            corner = crop_corner(random, moved, side, self.ranges.crop_px)
            moved, matrix, side = moved - np.tile(corner, 2), compose(side, shift=-corner) @ matrix, self.ranges.crop_px
        boxes, inside = keep_inside(moved, side)
        masks = warp_masks(masks[inside], matrix, side) if self.with_masks else None
        boxes, hu = boxes[inside].astype(np.float32), warp_slices(hu, matrix, self.air, side)
        negatives = None if self._negatives is None else _moved(self._negatives[index], matrix, side)
        return Sample(self._keys[index], hu, boxes, masks, negatives)

    def _masks(self, index: int) -> np.ndarray:
        """bool (n, S, S), one per lesion of the slice; empty for a lesion that has none in the store."""
        numbers, stored = self.masks.of_slice(self._parts[index], self._rows[index])
        of_lesion, of_store = np.nonzero(self._lesions[index].numbers[:, None] == numbers)
        masks = np.zeros((len(self._lesions[index].numbers), *stored.shape[1:]), bool)
        masks[of_lesion] = stored[of_store]
        return masks


def lesions_of_slices(index: pd.DataFrame, lesions: pd.DataFrame) -> list[SliceLesions]:
    """Boxes and RECIST points in stored px of the slices in `index`, in its order."""
    rows, ends = _on_slices(index, lesions)
    boxes, recist = (to_stored(rows[columns], rows["scale_x"], rows["scale_y"]) for columns in (BOX, RECIST))
    of_slices = (np.split(values, ends) for values in (rows["lesion"].to_numpy(), boxes, recist.reshape(-1, 4, 2)))
    return list(map(SliceLesions, *of_slices))[: len(index)]


def _boxes_of_slices(index: pd.DataFrame, table: pd.DataFrame) -> list[np.ndarray]:
    """The boxes (m, 4) of a table in stored px of each slice in `index`."""
    rows, ends = _on_slices(index, table)
    return np.split(to_stored(rows[BOX], rows["scale_x"], rows["scale_y"]), ends)[: len(index)]


def _on_slices(index: pd.DataFrame, table: pd.DataFrame) -> tuple[pd.DataFrame, np.ndarray]:
    """The rows of a table with the scales of their slices, in the order of `index`, and where those of the second,
    third, … slice start."""
    slices = index[["file_name", "scale_x", "scale_y"]].assign(place=np.arange(len(index)))
    rows = slices.merge(table, on="file_name").sort_values("place", kind="stable")
    return rows, rows["place"].searchsorted(np.arange(1, len(index)))


def _moved(boxes: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Boxes (m, 4) of nothing known around the ellipses in them, after the transform; those inside the image."""
    moved = [transform_box(box, ellipse_points(box), matrix) for box in boxes]
    kept, inside = keep_inside(np.array(moved).reshape(-1, 4), side)
    return kept[inside].astype(np.float32)


def _points(lesions: SliceLesions, i: int, masks: np.ndarray | None) -> np.ndarray:
    """What box `i` was drawn around: RECIST end points, else the outline of its mask, else an ellipse in the box."""
    if not np.isnan(lesions.recist[i]).any():
        return lesions.recist[i]
    points = mask_points(masks[i])
    return points if len(points) else ellipse_points(lesions.boxes[i])


class EpochSampler(Sampler[tuple[int, int]]):
    """The shuffled (epoch, index) pairs of one process; set `epoch` before the epoch starts.

    A batch of `batch` samples is shared out evenly over the processes: together they see the batches that a single
    process would see. The last, incomplete batch of an epoch is left out; a set smaller than a batch is repeated.
    """

    def __init__(self, samples: int, batch: int, seed: int, rank: int = 0, processes: int = 1):
        self.samples, self.seed, self.rank, self.epoch = samples, seed, rank, 0
        self.shape = max(samples // batch, 1), processes, batch // processes  # batches, processes, samples of each

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        return iter([(self.epoch, int(i)) for i in np.resize(order, self.shape)[:, self.rank].ravel()])

    def __len__(self) -> int:
        return self.shape[0] * self.shape[2]


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


def crop_side(share: float, side: int, stride: int) -> int | None:
    """Side (px) of the crops of an image of `side` px: the least from `share` of it on that can be trained on.

    It is less than `side` by a multiple of `stride`, that of the detector's coarsest map. Otherwise the last cells of
    that map would see another share of padding in whole images than in all crops, and predict what they never learned:
    high scores without a lesion. None where no side below `side` is one.
    """
    steps = math.floor((1 - share) * side / stride + 1e-9)
    return side - steps * stride if steps else None


def crop_corner(random: np.random.Generator, boxes: np.ndarray, side: int, crop: int) -> np.ndarray:
    """First pixel x, y (2,) int of a random crop of `crop` px from an image of `side` px.

    It holds one of the boxes (n, 4) with their centre in the image, drawn at random, as a whole; of a box wider than
    the crop its middle. Without such a box the crop lies anywhere. The same numbers are drawn in each case.
    """
    unit, last = random.random(3), side - crop
    boxes = boxes[keep_inside(boxes, side)[1]]
    if len(boxes) == 0:
        return np.floor(unit[1:] * (last + 1)).astype(int)
    box = boxes[int(unit[0] * len(boxes))]
    low, high = np.ceil(box[2:] - (crop - HALF_PIXEL)), np.floor(box[:2] + HALF_PIXEL)
    middle = np.rint((box[:2] + box[2:] + 1 - crop) / 2)
    low, high = np.where(low > high, middle, low), np.where(low > high, middle, high)
    low, high = np.clip(low, 0, last), np.clip(high, 0, last)
    return (low + np.floor(unit[1:] * (high - low + 1))).astype(int)


def warp_slices(slices: np.ndarray, matrix: np.ndarray, air: int, side: int) -> np.ndarray:
    """Slices (n, S, S) int16 HU resampled linearly to `side` px; what comes from outside the image is `air` (HU)."""
    return np.rint(_warp(slices.astype(np.float32), matrix, cv2.INTER_LINEAR, air, side)).astype(slices.dtype)


def warp_masks(masks: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Masks (n, S, S), bool or uint8, resampled to `side` px with the nearest pixel, 0 outside: uint8."""
    return _warp(masks.view(np.uint8), matrix, cv2.INTER_NEAREST, 0, side)


def _warp(planes: np.ndarray, matrix: np.ndarray, interpolation: int, border: int, side: int) -> np.ndarray:
    warped = np.empty((len(planes), side, side), planes.dtype)
    for plane, result in zip(planes, warped, strict=True):  # OpenCV is fastest on one plane at a time
        cv2.warpAffine(plane, matrix[:2], (side, side), result, interpolation, cv2.BORDER_CONSTANT, border)
    return warped


def transform_box(box: np.ndarray, points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """The box (4,) of a lesion after the transform (3, 3), float64.

    Each side has a margin of its own (from the outermost point to the box), seen as the four arrows (-left, 0),
    (right, 0), (0, -top), (0, bottom); the new margin of a side is how far the transformed arrows reach towards it. A
    flip swaps the margins of two sides, a quarter turn moves each to the next side, scaling stretches them, and small
    angles hardly change them. Identity and flips give the old box back.

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
