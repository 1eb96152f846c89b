"""How the slices of a part are stored: one uncompressed .npy and its index as CSV (read by `data.stored.slices`).

`data/slices/NN.npy` holds int16 HU (n, slices, S, S), and line i + 2 of `data/slices/NN.csv` describes its row i.

Writing streams row by row with plain writes: memory stays flat, and a full disk is an error that can be reported
(through a memory map it would kill the process). What is on the disk leaves the page cache at once: a store of 50 GB
would fill it, and taking ever new pages costs much time. Both files appear whole or not at all, the index last.
"""

import errno
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.files import atomic_path, flush_and_forget
from lesionpipe.core.formats import write_csv

SLICES_FOLDER = "data/slices"
INDEX_TYPES = {
    "row": int,  # in the .npy, from 0
    "file_name": str,  # official name of the lesion slice, `000001_01_01_109.png`
    "split": str,  # train, val or test
    "patient": int,
    "width_original_px": int,  # of the archive's slice, always known
    "height_original_px": int,
    "scale_x": float,  # stored px per original px (`data.stored.slices.to_stored`)
    "scale_y": float,
    "neighbours": str,  # exact, interpolated, duplicated or unknown interval (`preprocess.part.Plan`)
}
FLUSH_BYTES = 4 << 20  # to the disk while workers decode, rather than all of it at the end


def write_slices(
    folder: str | Path, part: str, index: pd.DataFrame, stacks: Iterable[np.ndarray], shape: tuple[int, int, int]
) -> None:
    """Write a part's array and index.

    Args:
        index: one row per sample with the columns of `INDEX_TYPES` (`row` is filled in).
        stacks: int16 HU per sample, each of `shape` (slices, S, S), consumed one at a time; or one array of all.

    An OSError, ENOSPC, where the disk can't hold the array (asked before the first stack is made) or fills up.
    """
    folder, rows, written, stack_bytes = Path(folder), len(index), 0, 2 * math.prod(shape)
    with atomic_path(folder / f"{part}.npy") as temporary, temporary.open("wb") as handle:
        _require_space(folder, rows * stack_bytes)
        header = {"descr": "<i2", "fortran_order": False, "shape": (rows, *shape)}
        np.lib.format.write_array_header_1_0(handle, header)
        for written, stack in enumerate(stacks, start=1):
            if stack.shape != shape or stack.dtype != np.int16:
                raise ValueError(f"stack {written} is {stack.dtype} {stack.shape}, expected int16 {shape}")
            handle.write(np.ascontiguousarray(stack, dtype="<i2").data)
            if written % max(1, FLUSH_BYTES // stack_bytes) == 0:
                flush_and_forget(handle)
        if written != rows:
            raise ValueError(f"{written} stacks for an index of {rows} rows")
    write_csv(folder / f"{part}.csv", index.assign(row=range(rows))[list(INDEX_TYPES)])


def _require_space(folder: Path, needed: int) -> None:
    """Ask for the bytes before any work: better now than after an hour."""
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed")
