"""One part's key slices, from the archive to the store: what to read, in which batches, and the writing.

First everything is planned without decoding: which key slices exist, and which slices each stack needs. Then workers
take batches (key slices of one series, which often share neighbours, so that those are decoded once) and give the
stacks back; this process alone writes them, in order. So the bytes don't depend on the number of workers, and on a
cluster only the archive has to be visible to the workers. Reading, inflating, decoding and resizing release the GIL:
threads suffice, and spare the copies between processes.
"""

from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.parallel import spread
from lesionpipe.core.progress import progress
from lesionpipe.data.slice_writer import SLICES_FOLDER, write_slices
from lesionpipe.download.reader import SliceReader, split_name
from lesionpipe.params import Preprocess
from lesionpipe.preprocess.stack import Plan, build_stack, plan_stack

BATCH_BYTES = 16 << 20  # of finished stacks; bounds what a worker holds
KEY_SLICE_COLUMNS = ("file_name", "split", "slice_interval_mm", "width_original_px", "height_original_px")


class Job(NamedTuple):
    """One key slice to make."""

    series: str
    plan: Plan
    width: int
    height: int


def read_key_slices(part: str, folder: str | Path = "data/key_slices") -> pd.DataFrame:
    """The key slices of a part, one row each.

    Raises:
        UserError: the table is missing, lacks a column, or holds something that is not a number.
    """
    path = Path(folder) / f"{part}.csv"
    types = {
        "file_name": str,
        "split": str,
        "slice_interval_mm": float,
        "width_original_px": float,  # empty where Image_size is
        "height_original_px": float,
    }
    try:
        return pd.read_csv(path, usecols=list(types), dtype=types)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro lesions`") from None
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}; run `dvc repro -f lesions`") from None


def preprocess_part(
    reader: SliceReader,
    key_slices: pd.DataFrame,
    settings: Preprocess,
    part: str,
    folder: str | Path = SLICES_FOLDER,
    workers: int = 0,
    cluster: str | None = None,
) -> pd.DataFrame:
    """Write `folder`/NN.npy and NN.csv and return the index (columns of `shards`, without row).

    Args:
        key_slices: of `read_key_slices`; its order is kept.
        workers: threads; 0 for one per core.

    Raises:
        UserError: a slice is damaged or of the wrong form, or an archive lacks a key slice.
        OSError: the disk is full.
    """
    key_slices = _with_sizes(reader, _present(reader, key_slices, part))
    jobs = [_job(reader, row, settings) for row in key_slices.itertuples()]
    index = _index(key_slices, jobs, settings.image_size)
    shape = (settings.slices, settings.image_size, settings.image_size)
    with closing(_stacks(reader, jobs, settings, part, workers, cluster)) as stacks:
        write_slices(folder, part, index, stacks, shape)
    return index


def _present(reader: SliceReader, key_slices: pd.DataFrame, part: str) -> pd.DataFrame:
    """The key slices that exist; in a whole archive that must be all of them."""
    here = key_slices["file_name"].map(reader.exists).astype(bool)
    absent = key_slices["file_name"][~here]
    if len(absent) and reader.complete:
        raise UserError(
            f"{reader.source}: {len(absent)} of {len(here)} key slices are missing, the first is "
            f"{absent.iloc[0]}; run `dvc repro -f download@{part}`, then `dvc repro`"
        )
    if len(absent):
        print(
            f"part {part}: left out {len(absent)} of {len(here)} key slices that are not in {reader.source}, "
            f"first {absent.iloc[0]}"
        )
    return key_slices[here].reset_index(drop=True)


def _with_sizes(reader: SliceReader, key_slices: pd.DataFrame) -> pd.DataFrame:
    """Sides as int; the slice itself tells those that the annotations don't know."""
    sides = ["width_original_px", "height_original_px"]
    table = key_slices.copy()
    for row in table.index[table[sides].isna().any(axis=1)]:
        table.loc[row, sides] = reader.read(table.at[row, "file_name"]).shape[::-1]
    return table.astype(dict.fromkeys(sides, int))


def _job(reader: SliceReader, row: NamedTuple, settings: Preprocess) -> Job:
    series, number = split_name(row.file_name)
    plan = plan_stack(
        int(number),
        row.slice_interval_mm,
        lambda n: reader.exists(_file_name(series, n)),
        settings.slices,
        settings.spacing_mm,
    )
    return Job(series, plan, row.width_original_px, row.height_original_px)


def _file_name(series: str, number: int) -> str:
    return f"{series}_{number:03d}.png"


def _index(key_slices: pd.DataFrame, jobs: list[Job], size: int) -> pd.DataFrame:
    table = key_slices[["file_name", "split", "width_original_px", "height_original_px"]]
    return table.assign(
        patient=table["file_name"].str[:6].astype(int),
        scale_x=size / table["width_original_px"],
        scale_y=size / table["height_original_px"],
        neighbours=[job.plan.neighbours for job in jobs],
    )


def _stacks(
    reader: SliceReader, jobs: list[Job], settings: Preprocess, part: str, workers: int, cluster: str | None
) -> Iterator[np.ndarray]:
    """The stacks int16 (slices, size, size) of all jobs, in order."""
    make = partial(_make_batch, reader=reader, size=settings.image_size, hu=settings.hu)
    batches = _batches(jobs, max(1, BATCH_BYTES // (2 * settings.slices * settings.image_size**2)))
    with progress(None, f"part {part}", total=len(jobs), unit="key slice") as bar:
        for stacks in spread(make, batches, workers, "threads", cluster):
            yield from stacks
            bar.update(len(stacks))


def _batches(jobs: list[Job], most: int) -> list[list[Job]]:
    """Neighbouring jobs of one series together, at most `most`."""
    batches: list[list[Job]] = []
    for job in jobs:
        if not batches or batches[-1][0].series != job.series or len(batches[-1]) == most:
            batches.append([])
        batches[-1].append(job)
    return batches


def _make_batch(jobs: list[Job], reader: SliceReader, size: int, hu: tuple[int, int]) -> list[np.ndarray]:
    """The stacks of one batch; what the next one needs again stays decoded."""
    images: dict[int, np.ndarray] = {}
    stacks = []
    for job in jobs:
        images = {number: images[number] for number in job.plan.needed if number in images}
        for number in job.plan.needed:
            if number not in images:
                images[number] = reader.read(_file_name(job.series, number), job.width, job.height)
        stacks.append(build_stack(job.plan, images, size, hu))
    return stacks
