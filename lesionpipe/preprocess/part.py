"""One part's key slices, from the archive to the store: what to read, in which batches, and the writing.

First everything is planned without decoding: which slices each stack needs. Then workers take batches (key slices of
one series, which often share neighbours, so that those are decoded once) and return the stacks; this process alone
writes them, in order. So the bytes don't depend on the number of workers, and on a cluster only the archive has to be
visible to the workers. Reading, inflating, decoding and resizing release the GIL: threads suffice, and save the copies
between processes.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.parallel import spread
from lesionpipe.core.progress import progress
from lesionpipe.core.table_checks import check_table
from lesionpipe.data.stored.slice_writer import SLICES_FOLDER, write_slices
from lesionpipe.download.reader import SliceReader, split_name
from lesionpipe.preprocess.stack import Plan, StackSettings, build_stack, plan_stack

BATCH_BYTES = 16 << 20  # of finished stacks; bounds what a worker holds
KEY_SLICE_TYPES = {
    "file_name": str,
    "split": str,
    "slice_interval_mm": float,
    "width_original_px": float,  # empty where Image_size is
    "height_original_px": float,
}


class StackJob(NamedTuple):
    """One key slice to make: its series and number, the plan of its stack, and the size that it must have in px."""

    series: str
    number: int
    plan: Plan
    width: int
    height: int


def read_key_slices(part: str, folder: str | Path = "data/key_slices") -> pd.DataFrame:
    """The key slices of a part, one row each.

    Raises:
        UserError: the table is missing, damaged or cut short, or lacks a column.
    """
    path = Path(folder) / f"{part}.csv"
    check_table(path, KEY_SLICE_TYPES, "lesions")
    return pd.read_csv(path, dtype=KEY_SLICE_TYPES, usecols=list(KEY_SLICE_TYPES))


def preprocess_part(
    reader: SliceReader,
    key_slices: pd.DataFrame,
    settings: StackSettings,
    part: str,
    folder: str | Path = SLICES_FOLDER,
    workers: int = 0,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Write `folder`/NN.npy and NN.csv and return the index (columns of `data.stored.slice_writer`, without row).

    Args:
        key_slices: of `read_key_slices`; its order is kept.
        workers: threads; 0 for one per core.

    Raises:
        UserError: a key slice is missing, or a slice is damaged, of the wrong form or of another size than annotated.
        OSError: the disk is full.
    """
    _refuse_missing(reader, key_slices["file_name"])
    key_slices = _with_sizes(reader, key_slices)
    jobs = [_job(reader, row, settings) for row in key_slices.itertuples()]
    index = _index(key_slices, jobs, settings.image_size)
    shape = (settings.slices, settings.image_size, settings.image_size)
    with closing(_stacks(reader, jobs, settings, part, workers, cluster)) as stacks:
        write_slices(folder, part, index, stacks, shape)
    return index


def _refuse_missing(reader: SliceReader, file_names: pd.Series) -> None:
    """The stage `lesions` names only slices that exist, so that a missing one is gone or was never listed."""
    absent = file_names[~file_names.map(reader.exists).astype(bool)]
    if len(absent):
        raise UserError(
            f"{reader.source}: {len(absent)} of {len(file_names)} key slices are missing, the first is "
            f"{absent.iloc[0]}; run `dvc repro lesions`"
        )


def _with_sizes(reader: SliceReader, key_slices: pd.DataFrame) -> pd.DataFrame:
    """Image sizes as int; one that the annotations lack is read from the slice itself."""
    sides = ["width_original_px", "height_original_px"]
    table = key_slices.copy()
    for row in table.index[table[sides].isna().any(axis=1)]:
        table.loc[row, sides] = reader.read(table.at[row, "file_name"]).shape[::-1]
    return table.astype(dict.fromkeys(sides, int))


def _job(reader: SliceReader, row: NamedTuple, settings: StackSettings) -> StackJob:
    series, number = split_name(row.file_name)
    place = int(number), row.slice_interval_mm, lambda n: reader.exists(_file_name(series, n))
    plan = plan_stack(*place, settings.slices, settings.spacing_mm)
    return StackJob(series, int(number), plan, row.width_original_px, row.height_original_px)


def _file_name(series: str, number: int) -> str:
    return f"{series}_{number:03d}.png"


def _index(key_slices: pd.DataFrame, jobs: list[StackJob], size: int) -> pd.DataFrame:
    table = key_slices[["file_name", "split", "width_original_px", "height_original_px"]]
    return table.assign(
        patient=table["file_name"].str[:6].astype(int),
        scale_x=size / table["width_original_px"],
        scale_y=size / table["height_original_px"],
        neighbours=[job.plan.neighbours for job in jobs],
    )


def _stacks(
    reader: SliceReader, jobs: list[StackJob], settings: StackSettings, part: str, workers: int, cluster: str | None
) -> Iterator[np.ndarray]:
    """The stacks int16 (slices, size, size) of all jobs, in order."""
    make = partial(_make_batch, reader=reader, size=settings.image_size, hu=settings.hu)
    batches = _batches(jobs, max(1, BATCH_BYTES // (2 * settings.slices * settings.image_size**2)))
    with progress(None, f"part {part}", total=len(jobs), unit="key slice") as bar:
        for stacks in spread(make, batches, workers, "threads", cluster):
            yield from stacks
            bar.update(len(stacks))


def _batches(jobs: list[StackJob], most: int) -> list[list[StackJob]]:
    """Neighbouring jobs of one series together, at most `most`."""
    batches: list[list[StackJob]] = []
    for job in jobs:
        if not batches or batches[-1][0].series != job.series or len(batches[-1]) == most:
            batches.append([])
        batches[-1].append(job)
    return batches


def _make_batch(jobs: list[StackJob], reader: SliceReader, size: int, hu: tuple[int, int]) -> list[np.ndarray]:
    """The stacks of one batch; what the next one needs too stays decoded."""
    images: dict[int, np.ndarray] = {}
    stacks = []
    for job in jobs:
        images = {number: images[number] for number in job.plan.needed if number in images}
        for number in job.plan.needed:
            if number not in images:
                images[number] = reader.read(_file_name(job.series, number))
        _check_sizes(job, images, reader.source)
        stacks.append(build_stack(job.plan, images, size, hu))
    return stacks


def _check_sizes(job: StackJob, images: Mapping[int, np.ndarray], source: str) -> None:
    """All slices of a stack must have the size of the key slice, and that the size that is annotated."""

    def place(number: int) -> str:
        height, width = images[number].shape
        return f"{_file_name(job.series, number)} is {width} x {height} px"

    if images[job.number].shape != (job.height, job.width):
        raise UserError(
            f"{source}: {place(job.number)}, but Image_size of its row in DL_info.csv is {job.width} x {job.height}; "
            "correct the table and name it in dataset.annotations"
        )
    for number, image in images.items():
        if image.shape != images[job.number].shape:
            raise UserError(f"{source}: {place(number)}, but its key slice {place(job.number)}; are the slices whole?")
