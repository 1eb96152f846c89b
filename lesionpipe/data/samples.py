"""Samples and batches, their loader, and how they become the network's input.

Slices travel to the device as int16 HU, half the bytes of float32, and are normalised there (paper, sec. 3.1).
"""

import functools
import os
import threading
import time
from multiprocessing import get_all_start_methods
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from lesionpipe.core.devices import Hardware, tune_for
from lesionpipe.core.files import has_ended
from lesionpipe.data.stored.slices import normalise

PREFETCH = 4  # batches each loader process keeps ready
WATCH_S = 2  # between looks whether the parent is alive


class Sample(NamedTuple):
    """One key slice of side S px and its n lesions."""

    key: str  # official file name
    hu: np.ndarray  # (slices, S, S) int16 HU
    boxes: np.ndarray  # (n, 4) float32 xyxy, stored px
    masks: np.ndarray | None  # (n, S, S) uint8, 1 in the lesion; None where no masks are asked for
    negatives: np.ndarray | None = None  # (m, 4) float32 xyxy, stored px: hard negatives, where there are some


class Batch(NamedTuple):
    """B samples as tensors; boxes and masks of all images stand in one list, `counts` says how many each image has."""

    keys: list[str]
    hu: Tensor  # (B, slices, S, S) int16
    boxes: Tensor  # (sum of counts, 4) float32
    counts: list[int]  # B; not a tensor: reading a number from a GPU waits for all its work
    masks: Tensor | None  # (sum of counts, S, S) uint8
    negatives: list[Tensor] | None = None  # B of (m, 4) float32


def collate(samples: list[Sample]) -> Batch:
    """Stack samples into tensors."""
    masks = None if samples[0].masks is None else torch.from_numpy(np.concatenate([s.masks for s in samples]))
    return Batch(
        keys=[s.key for s in samples],
        hu=torch.from_numpy(np.stack([s.hu for s in samples])),
        boxes=torch.from_numpy(np.concatenate([s.boxes for s in samples])),
        counts=[len(s.boxes) for s in samples],
        masks=masks,
        negatives=None if samples[0].negatives is None else [torch.from_numpy(s.negatives) for s in samples],
    )


def loader(dataset: Dataset, batch: int, sampler: Sampler | None, hardware: Hardware) -> DataLoader:
    """A loader of `Batch`es; its processes stay alive between epochs."""
    several = hardware.processes > 1 and hardware.workers > 0  # then no forks, since a thread may hold a lock
    forkserver = "forkserver" if several and "forkserver" in get_all_start_methods() else None
    return DataLoader(
        dataset,
        batch_size=batch,
        sampler=sampler,
        collate_fn=collate,
        num_workers=hardware.workers,
        worker_init_fn=functools.partial(_start_worker, os.getpid()),
        pin_memory=hardware.device == "cuda",
        persistent_workers=hardware.workers > 0,
        multiprocessing_context=forkserver,
        prefetch_factor=PREFETCH if hardware.workers else None,
    )


def _start_worker(parent: int, worker: int) -> None:
    """Prepare a loader process: one thread for OpenCV, memory kept, and a thread that ends it after its parent.

    torch watches the process that forked this one. A fork server ends only after its last loader process: if the
    parent is killed, both would wait for each other for ever.
    """

    def end_after_parent() -> None:
        while not has_ended(parent):
            time.sleep(WATCH_S)
        os._exit(1)

    cv2.setNumThreads(0)
    tune_for("cpu")
    if os.name == "posix":
        threading.Thread(target=end_after_parent, daemon=True).start()


def prepare(hu: Tensor, hu_range: tuple[int, int], channels_last: bool) -> Tensor:
    """Network input from int16 HU (B, slices, S, S): float32 in [-1, 1]."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return normalise(hu, hu_range).contiguous(memory_format=layout)
