"""Samples for training and validation: slices, lesion boxes and mask of one key slice, augmented (paper, sec. 3.1).

Nothing here has a state. The random numbers of a sample come from (seed, epoch, index) and the order of an epoch from
(seed, epoch), so neither the number of loader workers nor an interruption changes what the network sees. The sampler
therefore hands out (epoch, index) pairs.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd
from torch.utils.data import Dataset, Sampler

from lesionpipe.data.geometry import to_stored
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.samples import Sample
from lesionpipe.data.slices import SliceStore
from lesionpipe.params import Train
from lesionpipe.train import augment

BOX = [f"{c}_original_px" for c in ("x1", "y1", "x2", "y2")]
RECIST = [f"recist_{c}{i}_original_px" for i in (1, 2, 3, 4) for c in ("x", "y")]


class Labels(NamedTuple):
    """The n lesions of one slice, stored px."""

    lesions: np.ndarray  # (n,) numbers of the lesions
    boxes: np.ndarray  # (n, 4) float64
    recist: np.ndarray  # (n, 4, 2) float64, NaN where unknown


class LesionDataset(Dataset):
    """Key slices with their lesions; ``dataset[epoch, index]`` is augmented, ``dataset[index]`` is as stored.

    Args:
        shards: the slices.
        lesions: data/lesions.csv.
        masks: where the masks lie; read for the samples' mask and for lesions without RECIST points.
        ranges: of the augmentation, with the seed.
        air: HU of what lies outside the image, the lower end of the clipping range.
        with_mask: whether samples carry a mask.
    """

    def __init__(
        self, shards: SliceStore, lesions: pd.DataFrame, masks: MaskStore, ranges: Train, air: int, with_mask: bool
    ):
        self.shards, self.masks, self.ranges = shards, masks, ranges
        self.air, self.with_mask = air, with_mask
        index = shards.index
        self._keys = index["file_name"].tolist()
        self._parts, self._rows = index["part"].tolist(), index["row"].tolist()
        self._labels = labels_of(index, lesions)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, item: int | tuple[int, int]) -> Sample:
        if isinstance(item, tuple):
            return self._augmented(*item)
        boxes = self._labels[item].boxes.astype(np.float32)
        mask = _union(self._masks(item)[1]) if self.with_mask else None
        return Sample(self._keys[item], self.shards.slices(item), boxes, mask)

    def _augmented(self, epoch: int, index: int) -> Sample:
        slices = self.shards.slices(index)
        side = slices.shape[-1]
        random = np.random.default_rng([self.ranges.seed, epoch, index])
        matrix = augment.random_matrix(random, self.ranges, side)
        labels = self._labels[index]
        unsure = bool(np.isnan(labels.recist).any())
        numbers, masks = self._masks(index) if self.with_mask or unsure else (np.zeros(0, int), np.zeros((0, 1, 1)))
        moved = [
            augment.transform_box(box, _points(labels, i, numbers, masks), matrix) for i, box in enumerate(labels.boxes)
        ]
        boxes, inside = augment.keep_inside(np.array(moved).reshape(-1, 4), side)
        mask = augment.warp_mask(_union(masks), matrix) if self.with_mask else None
        hu = augment.warp_slices(slices, matrix, self.air)
        return Sample(self._keys[index], hu, boxes[inside].astype(np.float32), mask)

    def _masks(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.masks.of_slice(self._parts[index], self._rows[index])


def labels_of(index: pd.DataFrame, lesions: pd.DataFrame) -> list[Labels]:
    """Boxes and RECIST points in stored px of the slices in `index`, in its order."""
    rows = dict(iter(lesions.groupby("file_name", sort=False)))
    none = lesions.iloc[:0]
    scales = index[["scale_x", "scale_y"]].to_numpy(np.float64)
    return [_labels(rows.get(name, none), *scale) for name, scale in zip(index["file_name"], scales, strict=True)]


def _labels(table: pd.DataFrame, scale_x: float, scale_y: float) -> Labels:
    boxes = to_stored(table[BOX].to_numpy(np.float64), scale_x, scale_y)
    recist = to_stored(table[RECIST].to_numpy(np.float64), scale_x, scale_y)
    return Labels(table["lesion"].to_numpy(), boxes, recist.reshape(-1, 4, 2))


def _points(labels: Labels, i: int, numbers: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """What box `i` was drawn around: RECIST end points, else the outline of its mask, else an ellipse in the box."""
    if not np.isnan(labels.recist[i]).any():
        return labels.recist[i]
    found = np.flatnonzero(numbers == labels.lesions[i])
    points = augment.mask_points(masks[found[0]]) if len(found) else np.zeros((0, 2))
    return points if len(points) else augment.ellipse_points(labels.boxes[i])


def _union(masks: np.ndarray) -> np.ndarray:
    return masks.any(axis=0).astype(np.uint8)


class EpochSampler(Sampler[tuple[int, int]]):
    """The shuffled (epoch, index) pairs of one process; the next epoch is set before it starts, as Lightning does.

    A batch of `batch` samples is shared out evenly over the processes: together they see the batches that a single
    process would see. The last, incomplete batch of an epoch is left out; a set smaller than a batch is repeated.
    """

    def __init__(self, samples: int, batch: int, seed: int, rank: int = 0, processes: int = 1, first_epoch: int = 0):
        self.samples, self.batch, self.seed = samples, batch, seed
        self.rank, self.processes = rank, processes
        self.first_epoch = self.epoch = first_epoch

    def set_epoch(self, epoch: int) -> None:
        """`epoch` counts from `first_epoch`, where a resumed training goes on."""
        self.epoch = self.first_epoch + epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.samples)
        batches = np.resize(order, (max(self.samples // self.batch, 1), self.processes, self.batch // self.processes))
        return iter([(self.epoch, int(i)) for i in batches[:, self.rank].ravel()])

    def __len__(self) -> int:
        return max(self.samples // self.batch, 1) * (self.batch // self.processes)
