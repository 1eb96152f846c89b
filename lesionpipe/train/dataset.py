"""Samples for training and validation: slices, lesion boxes and masks of one key slice, augmented (paper, sec. 3.1).

Nothing here has a state. The random numbers of a sample come from (seed, epoch, index) and the order of an epoch from
(seed, epoch), so neither the number of loader workers nor an interruption changes what the network sees. The sampler
therefore yields (epoch, index) pairs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch.utils.data import Dataset, Sampler

from lesionpipe.data.masks import MaskStore
from lesionpipe.data.samples import Sample
from lesionpipe.data.stored.geometry import to_stored
from lesionpipe.data.stored.schema import BOX, RECIST
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.train import augment


class SliceLesions(NamedTuple):
    """The n lesions of one slice, stored px."""

    numbers: np.ndarray  # (n,) as in data/lesions.csv
    boxes: np.ndarray  # (n, 4) float64
    recist: np.ndarray  # (n, 4, 2) float64, NaN where unknown


class LesionDataset(Dataset):
    """Key slices with their lesions; ``dataset[epoch, index]`` is augmented, ``dataset[index]`` is as stored.

    An augmented lesion whose centre leaves the image is dropped together with its mask.

    Args:
        slices: the key slices.
        lesions: rows of data/lesions.csv that count.
        masks: read for the samples' masks and for lesions without RECIST points.
        ranges: of the augmentation.
        seed: of the augmentation.
        air: HU of what lies outside the image, the lower end of the clipping range.
        with_masks: whether samples carry masks.
    """

    def __init__(
        self,
        slices: SliceStore,
        lesions: pd.DataFrame,
        masks: MaskStore,
        ranges: augment.AugmentationRanges,
        seed: int,
        air: int,
        with_masks: bool,
    ):
        self.slices, self.masks, self.ranges = slices, masks, ranges
        self.seed, self.air, self.with_masks = seed, air, with_masks
        index = slices.index
        self._keys = index["file_name"].tolist()
        self._parts, self._rows = index["part"].tolist(), index["row"].tolist()
        self._lesions = lesions_of_slices(index, lesions)

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
        matrix = augment.random_matrix(random, self.ranges, side)
        masks = self._masks(index) if self.with_masks or np.isnan(lesions.recist).any() else None
        moved = [augment.transform_box(box, _points(lesions, i, masks), matrix) for i, box in enumerate(lesions.boxes)]
        boxes, inside = augment.keep_inside(np.array(moved).reshape(-1, 4), side)
        return Sample(
            self._keys[index],
            augment.warp_slices(hu, matrix, self.air),
            boxes[inside].astype(np.float32),
            _warp_all(masks[inside], matrix) if self.with_masks else None,
        )

    def _masks(self, index: int) -> np.ndarray:
        """bool (n, S, S), one per lesion of the slice; empty for a lesion that has none in the store."""
        numbers, stored = self.masks.of_slice(self._parts[index], self._rows[index])
        wanted = self._lesions[index].numbers
        if np.array_equal(numbers, wanted):
            return stored
        masks = np.zeros((len(wanted), *stored.shape[1:]), bool)
        for mask, lesion in zip(masks, wanted, strict=True):
            mask |= stored[numbers == lesion].any(axis=0)
        return masks


def lesions_of_slices(index: pd.DataFrame, lesions: pd.DataFrame) -> list[SliceLesions]:
    """Boxes and RECIST points in stored px of the slices in `index`, in its order."""
    rows = dict(iter(lesions.groupby("file_name", sort=False)))
    none = lesions.iloc[:0]
    scales = index[["scale_x", "scale_y"]].to_numpy(np.float64)
    return [
        _lesions_of_slice(rows.get(name, none), *scale) for name, scale in zip(index["file_name"], scales, strict=True)
    ]


def _lesions_of_slice(table: pd.DataFrame, scale_x: float, scale_y: float) -> SliceLesions:
    boxes = to_stored(table[BOX].to_numpy(np.float64), scale_x, scale_y)
    recist = to_stored(table[RECIST].to_numpy(np.float64), scale_x, scale_y)
    return SliceLesions(table["lesion"].to_numpy(), boxes, recist.reshape(-1, 4, 2))


def _points(lesions: SliceLesions, i: int, masks: np.ndarray | None) -> np.ndarray:
    """What box `i` was drawn around: RECIST end points, else the outline of its mask, else an ellipse in the box."""
    if not np.isnan(lesions.recist[i]).any():
        return lesions.recist[i]
    points = augment.mask_points(masks[i])
    return points if len(points) else augment.ellipse_points(lesions.boxes[i])


def _warp_all(masks: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    warped = np.empty(masks.shape, np.uint8)
    for mask, result in zip(masks, warped, strict=True):
        result[:] = augment.warp_mask(mask, matrix)
    return warped


class EpochSampler(Sampler[tuple[int, int]]):
    """The shuffled (epoch, index) pairs of one process; set `epoch` before the epoch starts.

    A batch of `batch` samples is shared out evenly over the processes: together they see the batches that a single
    process would see. The last, incomplete batch of an epoch is left out; a set smaller than a batch is repeated.
    """

    def __init__(self, samples: int, batch: int, seed: int, rank: int = 0, processes: int = 1):
        self.samples, self.batch, self.seed = samples, batch, seed
        self.rank, self.processes = rank, processes
        self.epoch = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        batches = np.resize(order, (max(self.samples // self.batch, 1), self.processes, self.batch // self.processes))
        return iter([(self.epoch, int(i)) for i in batches[:, self.rank].ravel()])

    def __len__(self) -> int:
        return max(self.samples // self.batch, 1) * (self.batch // self.processes)
