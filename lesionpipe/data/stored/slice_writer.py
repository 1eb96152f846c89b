"""How the slices of a part are stored: one uncompressed .npy and its index as CSV (read by `data.stored.slices`).

`data/slices/NN.npy` holds int16 HU (n, slices, S, S), and line i + 2 of `data/slices/NN.csv` describes its row i:

| column | meaning |
|---|---|
| row | row in the .npy, from 0 |
| file_name | official name of the lesion slice, `000001_01_01_109.png` |
| split, patient | train, val or test; patient number |
| width_original_px, height_original_px | of the archive's slice, always known |
| scale_x, scale_y | stored px per original px (`data.stored.geometry.to_stored`) |
| neighbours | exact, interpolated, duplicated or unknown interval (`preprocess.stack.Plan`) |

Writing streams row by row with plain writes: memory stays flat, and a full disk is an error that can be reported
(through a memory map it would kill the process). What is on the disk leaves the page cache at once: a store of 50 GB
would fill it, and taking ever new pages costs much time. Both files appear whole or not at all, the index last.
"""

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.files import atomic_path, flush_and_forget
from lesionpipe.core.formats import write_csv

SLICES_FOLDER = "data/slices"
INDEX_TYPES = {
    "row": int,
    "file_name": str,
    "split": str,
    "patient": int,
    "width_original_px": int,
    "height_original_px": int,
    "scale_x": float,
    "scale_y": float,
    "neighbours": str,
}
FLUSH_BYTES = 4 << 20  # to the disk while workers decode, rather than all of it at the end


def write_slices(
    folder: str | Path, part: str, index: pd.DataFrame, stacks: Iterable[np.ndarray], shape: tuple[int, int, int]
) -> None:
    """Write a part's array and index.

    Args:
        index: one row per sample with the columns of `INDEX_TYPES` (`row` is filled in).
        stacks: int16 (slices, S, S) per sample, in the order of `index`, consumed one at a time; or one array of all.
        shape: (slices, S, S).

    Raises:
        OSError: ENOSPC when the disk cannot hold the array (asked before the first stack is made) or fills up.
    """
    folder = Path(folder)
    with atomic_path(folder / f"{part}.npy") as temporary:
        _require_space(temporary, len(index), shape)
        _write_array(temporary, len(index), shape, stacks)
    write_csv(folder / f"{part}.csv", index.assign(row=range(len(index)))[list(INDEX_TYPES)])


def _write_array(path: Path, rows: int, shape: tuple[int, int, int], stacks: Iterable[np.ndarray]) -> None:
    """Stream `rows` stacks into an .npy file."""
    header = {"descr": "<i2", "fortran_order": False, "shape": (rows, *shape)}
    written, every = 0, max(1, FLUSH_BYTES // max(1, 2 * int(np.prod(shape))))
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, header)
        for stack in stacks:
            if stack.shape != shape or stack.dtype != np.int16:
                raise ValueError(f"stack {written} is {stack.dtype} {stack.shape}, expected int16 {shape}")
            handle.write(np.ascontiguousarray(stack, dtype="<i2").data)
            written += 1
            if written % every == 0:
                flush_and_forget(handle)
    if written != rows:
        raise ValueError(f"{written} stacks for an index of {rows} rows")


def _require_space(path: Path, rows: int, shape: tuple[int, int, int]) -> None:
    """Ask for the room before any work: better now than after an hour."""
    needed = rows * int(np.prod(shape)) * 2
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed")
