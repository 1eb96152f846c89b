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
from lesionpipe.data.stored.schema import BOX, RECIST
from lesionpipe.data.stored.slices import SliceStore, to_stored
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
        ranges, seed: of the augmentation.
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
        self._keys, self._parts, self._rows = (slices.index[name].tolist() for name in ("file_name", "part", "row"))
        self._lesions = lesions_of_slices(slices.index, lesions)

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
            augment.warp_masks(masks[inside], matrix) if self.with_masks else None,
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
    rows, found = dict(iter(lesions.groupby("file_name", sort=False))), []
    for name, *scale in index[["file_name", "scale_x", "scale_y"]].itertuples(index=False):
        own = rows.get(name, lesions.iloc[:0])
        boxes, recist = (to_stored(own[columns].to_numpy(np.float64), *scale) for columns in (BOX, RECIST))
        found.append(SliceLesions(own["lesion"].to_numpy(), boxes, recist.reshape(-1, 4, 2)))
    return found


def _points(lesions: SliceLesions, i: int, masks: np.ndarray | None) -> np.ndarray:
    """What box `i` was drawn around: RECIST end points, else the outline of its mask, else an ellipse in the box."""
    if not np.isnan(lesions.recist[i]).any():
        return lesions.recist[i]
    points = augment.mask_points(masks[i])
    return points if len(points) else augment.ellipse_points(lesions.boxes[i])


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
