"""The store of stacked slices: one uncompressed .npy per part, read through a memory map, and its index as CSV.

`data/slices/NN.npy` holds int16 HU (n, slices, S, S), and line i + 1 of `data/slices/NN.csv` tells what row i is:

| column | meaning |
|---|---|
| row | row in the .npy, from 0 |
| file_name | official name of the lesion slice, `000001_01_01_109.png` |
| split, patient | train, val or test; patient number |
| width_original_px, height_original_px | of the archive's slice |
| scale_x, scale_y | stored px per original px (`stack.to_stored`) |
| neighbours | exact, interpolated, duplicated or unknown interval (`stack.Plan`) |

Writing streams row by row with plain writes: memory stays flat, and a full disk is an error that can be told (through a
memory map it would kill the process). What is on the disk leaves the page cache at once: a store of 50 GB would fill
it, and taking ever new pages costs much time. Both files appear whole or not at all, the index last.
"""

import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path, flush_and_forget
from lesionpipe.core.formats import write_csv

FOLDER = "data/slices"
COLUMNS = (
    "row",
    "file_name",
    "split",
    "patient",
    "width_original_px",
    "height_original_px",
    "scale_x",
    "scale_y",
    "neighbours",
)
FLUSH_BYTES = 4 << 20  # to the disk while workers decode, rather than all of it at the end
_TYPES = {"file_name": str, "split": str, "neighbours": str}


@dataclass
class SliceStore:
    """Stacked slices of several parts; sample i of `index` (RangeIndex; `COLUMNS` and part) is `slices(i)`.

    Opened lazily in each process: pickling carries the paths and the index, not the data.
    """

    folder: Path
    index: pd.DataFrame
    _arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: str | Path = FOLDER, parts: Iterable[str] = ()) -> "SliceStore":
        """Read the indices of `parts`.

        Raises:
            UserError: a part is missing, or its index and its array don't go together.
        """
        tables = [_read_index(Path(folder), part) for part in parts]
        if not tables:
            raise UserError(f"{folder}: no parts asked for; dataset.parts names them")
        return cls(Path(folder).absolute(), pd.concat(tables, ignore_index=True))

    def __len__(self) -> int:
        return len(self.index)

    def slices(self, i: int) -> np.ndarray:
        """int16 HU (slices, S, S) of sample i, memory-mapped and read-only."""
        part, row = self.index.at[i, "part"], self.index.at[i, "row"]
        return self._array(part)[row]

    def select(self, splits: Iterable[str]) -> "SliceStore":
        """The samples of the given splits, renumbered from 0."""
        chosen = self.index[self.index["split"].isin(list(splits))]
        return SliceStore(self.folder, chosen.reset_index(drop=True), self._arrays)

    def _array(self, part: str) -> np.ndarray:
        if part not in self._arrays:
            self._arrays[part] = _mapped(self.folder, part)
        return self._arrays[part]

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "index": self.index, "_arrays": {}}


def write_slices(
    folder: str | Path, part: str, index: pd.DataFrame, stacks: Iterable[np.ndarray], shape: tuple[int, int, int]
) -> None:
    """Write a part's array and index.

    Args:
        index: one line per sample with `COLUMNS` (`row` is filled in).
        stacks: int16 (slices, S, S) per sample, in the order of `index`, consumed one at a time; or one array of all.
        shape: (slices, S, S).

    Raises:
        OSError: ENOSPC when the disk cannot hold the array (asked before the first stack is made) or fills up.
    """
    folder = Path(folder)
    with atomic_path(folder / f"{part}.npy") as temporary:
        _require_space(temporary, len(index), shape)
        _write_array(temporary, len(index), shape, stacks)
    write_csv(folder / f"{part}.csv", index.assign(row=range(len(index)))[list(COLUMNS)])


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


def _read_index(folder: Path, part: str) -> pd.DataFrame:
    path = folder / f"{part}.csv"
    try:
        table = pd.read_csv(path, dtype=_TYPES, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro preprocess@{part}`") from None
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise UserError(f"{path}: column {missing[0]} is missing; run `dvc repro -f preprocess@{part}`")
    rows = len(_mapped(folder, part))
    if rows != len(table):
        raise UserError(f"{path}: {len(table)} rows, but {part}.npy has {rows}; run `dvc repro -f preprocess@{part}`")
    return table[list(COLUMNS)].assign(part=part)


def _mapped(folder: Path, part: str) -> np.ndarray:
    """The memory map of a part's array: int16 (n, slices, S, S)."""
    path = folder / f"{part}.npy"
    try:
        array = np.load(path, mmap_mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro preprocess@{part}`") from None
    except ValueError as error:
        raise UserError(f"{path}: not a whole .npy array ({error}); run `dvc repro -f preprocess@{part}`") from None
    if array.dtype != np.int16 or array.ndim != 4:
        raise UserError(f"{path}: {array.dtype} {array.shape}, expected int16 (n, slices, side, side)")
    return array
