"""One part's key slices, from the archive to the store: each with its neighbours at ±2 mm, … (paper, sec. 3.1).

A position `k · spacing_mm` (k = -1, 0, 1 for three slices) above or below the lesion slice is

- an existing slice that lies there ("exact"), or the linear interpolation in HU of the two around it ("interpolated");
- the lesion slice, where a slice that it needs doesn't exist ("duplicated", as in the paper): nothing is extrapolated,
  and no gap is bridged. With an unknown interval all positions are ("unknown interval").

HU are clipped, then resized, then rounded: clipping first keeps metal and padding from bleeding.

Workers take batches of key slices of one series, which often share neighbours, so that those are decoded once; this
process alone writes, in order. So the bytes don't depend on the number of workers, and on a cluster only the archive
has to be visible to them. Reading, inflating, decoding and resizing release the GIL: threads suffice, and save copies.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import closing
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.parallel import spread
from lesionpipe.core.progress import progress
from lesionpipe.core.stage_files import check_table, refuse_rows
from lesionpipe.data.stored.slice_writer import SLICES_FOLDER, write_slices
from lesionpipe.download.reader import SliceReader, split_name
from lesionpipe.params import Preprocess

ON_SLICE = 1e-6  # slice intervals: a position this near to a slice lies on it
MOST_STEPS = 1e6  # slice intervals that a stack may span; an interval that thin, or an endless one, is unknown
NEIGHBOUR_KINDS = ("unknown interval", "duplicated", "interpolated", "exact")  # from the worst to the best
BATCH_BYTES = 16 << 20  # of finished stacks; bounds what a worker holds
LARGEST_IMAGE_PX = 1_000_000  # px; DL_info.csv holds no larger number
KEY_SLICE_TYPES = {
    "file_name": str,
    "split": str,
    "slice_interval_mm": float,
    "width_original_px": float,  # empty where Image_size is
    "height_original_px": float,
}


class Plan(NamedTuple):
    """Which slices make a stack: a position (below, above, w) is (1 - w) · slice below + w · slice above."""

    positions: tuple[tuple[int, int, float], ...]
    neighbours: str  # the worst of its positions' NEIGHBOUR_KINDS

    @property
    def needed(self) -> list[int]:
        """The numbers of the slices to read, rising."""
        return sorted({number for below, above, _ in self.positions for number in (below, above)})


class StackJob(NamedTuple):
    """One key slice to make: its series and number, the plan of its stack, and the size that it must have in px."""

    series: str
    number: int
    plan: Plan
    width: int
    height: int


def read_key_slices(part: str, folder: str | Path = "data/key_slices") -> pd.DataFrame:
    """The key slices of a part, one row each; a UserError where the table is damaged or an image size impossible."""
    path = Path(folder) / f"{part}.csv"
    check_table(path, KEY_SLICE_TYPES, "lesions")
    table = pd.read_csv(path, dtype=KEY_SLICE_TYPES, usecols=list(KEY_SLICE_TYPES))
    for side in (table["width_original_px"], table["height_original_px"]):
        wrong = side.lt(1) | side.gt(LARGEST_IMAGE_PX) | side.mod(1).gt(0)
        refuse_rows(path, side, wrong, f"a whole number of px up to {LARGEST_IMAGE_PX:,}", "lesions")
    return table


def preprocess_part(
    reader: SliceReader,
    key_slices: pd.DataFrame,
    settings: Preprocess,
    part: str,
    folder: str | Path = SLICES_FOLDER,
    workers: int = 0,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Write `folder`/NN.npy and NN.csv in the order of `key_slices`, by so many threads (0: one per core).

    Returns the index: the columns of `data.stored.slice_writer` but row, among others. A UserError where a key slice is
    missing, or a slice is damaged, of the wrong form or of another size than annotated; an OSError where the disk is
    full.
    """
    index = _with_sizes(reader, key_slices)
    jobs = [_job(reader, row, settings) for row in index.itertuples()]
    side = settings.image_size
    index = index.assign(
        patient=index["file_name"].str[:6].astype(int),
        scale_x=side / index["width_original_px"],
        scale_y=side / index["height_original_px"],
        neighbours=[job.plan.neighbours for job in jobs],
    )
    shape = (settings.slices, side, side)
    batches = _batches(jobs, most=max(1, BATCH_BYTES // (2 * settings.slices * side**2)))
    make = partial(_make_batch, reader=reader, size=side, hu=settings.hu)
    with closing(spread(make, batches, workers, "threads", cluster)) as made:
        stacks = progress(chain.from_iterable(made), f"part {part}", total=len(jobs), unit="key slice")
        write_slices(folder, part, index, stacks, shape)
    return index


def _with_sizes(reader: SliceReader, key_slices: pd.DataFrame) -> pd.DataFrame:
    """The key slices, if all are there, with image sizes as int; what the annotations lack is read from the slice."""
    absent = [name for name in key_slices["file_name"] if not reader.exists(name)]
    if absent:
        missing = f"{len(absent)} of {len(key_slices)} key slices are missing, the first is {absent[0]}"
        raise UserError(f"{reader.source}: {missing}; run `dvc repro lesions`")
    sides = ["width_original_px", "height_original_px"]
    table = key_slices.copy()
    for row in table.index[table[sides].isna().any(axis=1)]:
        table.loc[row, sides] = reader.read(table.at[row, "file_name"]).shape[::-1]
    return table.astype(dict.fromkeys(sides, int))


def _job(reader: SliceReader, row: NamedTuple, settings: Preprocess) -> StackJob:
    series, number = split_name(row.file_name)
    place = int(number), row.slice_interval_mm, lambda n: reader.exists(_file_name(series, n))
    plan = plan_stack(*place, settings.slices, settings.spacing_mm)
    return StackJob(series, int(number), plan, row.width_original_px, row.height_original_px)


def _file_name(series: str, number: int) -> str:
    return f"{series}_{number:03d}.png"


def _batches(jobs: list[StackJob], most: int) -> list[list[StackJob]]:
    """Neighbouring jobs of one series together, at most `most`."""
    groups = (list(group) for _, group in groupby(jobs, attrgetter("series")))
    return [group[first : first + most] for group in groups for first in range(0, len(group), most)]


def _make_batch(jobs: list[StackJob], reader: SliceReader, size: int, hu: tuple[int, int]) -> list[np.ndarray]:
    """The stacks of one batch; what the next one needs too stays decoded."""
    images: dict[int, np.ndarray] = {}
    stacks = []
    for job in jobs:
        images = {n: images[n] if n in images else reader.read(_file_name(job.series, n)) for n in job.plan.needed}
        _check_sizes(job, images, reader.source)
        stacks.append(build_stack(job.plan, images, size, hu))
    return stacks


def _check_sizes(job: StackJob, images: Mapping[int, np.ndarray], source: str) -> None:
    """All slices of a stack must have the size of the key slice, and that the size that is annotated."""
    for number in (job.number, *images):
        height, width = images[number].shape
        if (width, height) == (job.width, job.height):
            continue
        found = f"{source}: {_file_name(job.series, number)} is {width} x {height} px, but"
        if number == job.number:
            annotated = f"Image_size of its row in DL_info.csv is {job.width} x {job.height}"
            raise UserError(f"{found} {annotated}; correct the table and name it in dataset.annotations")
        key_slice = f"its key slice {_file_name(job.series, job.number)} is {job.width} x {job.height} px"
        raise UserError(f"{found} {key_slice}; are the slices whole?")


def plan_stack(
    key_slice: int, interval_mm: float | None, exists: Callable[[int], bool], slices: int, spacing_mm: float
) -> Plan:
    """Which existing slices give `slices` positions `spacing_mm` apart around `key_slice`, and with which weights.

    `interval_mm` lies between consecutive slice numbers; None, NaN, infinity or a value not above 0 is unknown.
    """
    known = interval_mm is not None and interval_mm > 0 and 0 < slices * spacing_mm / interval_mm < MOST_STEPS
    found = []
    for k in range(-(slices // 2), slices // 2 + 1):
        if known:
            found.append(_around(key_slice, k * spacing_mm / interval_mm, exists))
        else:
            found.append(((key_slice, key_slice, 0.0), "unknown interval" if k else "exact"))
    positions, kinds = zip(*found, strict=True)
    return Plan(positions, min(kinds, key=NEIGHBOUR_KINDS.index))


def _around(key_slice: int, position: float, exists: Callable[[int], bool]) -> tuple[tuple[int, int, float], str]:
    """The slices around a position (in slices from the lesion slice) and the weight of the upper one; and how."""
    low, high = math.floor(position + ON_SLICE), math.ceil(position - ON_SLICE)
    if not (exists(key_slice + low) and exists(key_slice + high)):
        return (key_slice, key_slice, 0.0), "duplicated"
    if low == high:
        return (key_slice + low, key_slice + low, 0.0), "exact"
    return (key_slice + low, key_slice + high, position - low), "interpolated"


def build_stack(plan: Plan, images: Mapping[int, np.ndarray], size: int, hu: tuple[int, int]) -> np.ndarray:
    """int16 HU (slices, size, size) of the `images` needed: interpolated, clipped to `hu` (low, high), resized."""
    made = {(low, high, w): _slice_at(images[low], images[high], w, size, hu) for low, high, w in set(plan.positions)}
    return np.stack([made[position] for position in plan.positions])


def _slice_at(below: np.ndarray, above: np.ndarray, weight: float, size: int, hu: tuple[int, int]) -> np.ndarray:
    """int16 HU (size, size) between two slices (H, W); only where nothing is resized is the mixture rounded at once."""
    image, resized = below, below.shape != (size, size)
    if weight:
        depth = cv2.CV_32F if resized else cv2.CV_16S
        image = cv2.addWeighted(below, 1 - weight, above, weight, 0, dtype=depth)
    image = image.clip(*hu)
    if resized:
        how = cv2.INTER_AREA if min(image.shape) >= size else cv2.INTER_LINEAR
        image = np.rint(cv2.resize(image.astype(np.float32, copy=False), (size, size), interpolation=how))
    return image.astype(np.int16, copy=False)
