"""The store of preprocessed slices: one uncompressed .npy per part, read through a memory map, and its index as CSV.

`data/slices/NN.npy` holds int16 HU (n, slices, S, S), and line i + 2 of `data/slices/NN.csv` describes its row i:

| column | meaning |
|---|---|
| row | row in the .npy, from 0 |
| file_name | official name of the lesion slice, `000001_01_01_109.png` |
| split, patient | train, val or test; patient number |
| width_original_px, height_original_px | of the archive's slice, always known |
| scale_x, scale_y | stored px per original px (`data.geometry.to_stored`) |
| neighbours | exact, interpolated, duplicated or unknown interval (`preprocess.stack.Plan`) |

Writing streams row by row with plain writes: memory stays flat, and a full disk is an error that can be reported
(through a memory map it would kill the process). What is on the disk leaves the page cache at once: a store of 50 GB
would fill it, and taking ever new pages costs much time. Both files appear whole or not at all, the index last.
"""

import errno
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path, flush_and_forget
from lesionpipe.core.formats import write_csv
from lesionpipe.data.schema import SPLITS, counted_slices
from lesionpipe.data.tables import read_table, refuse_value

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
IMAGE_SIZE = ["width_original_px", "height_original_px"]
FLUSH_BYTES = 4 << 20  # to the disk while workers decode, rather than all of it at the end


@dataclass
class SliceStore:
    """Slices of several parts; sample i of `index` (RangeIndex; columns `INDEX_TYPES` and part) is `slices(i)`.

    Opened lazily in each process: pickling carries the paths and the index, not the data.
    """

    folder: Path
    index: pd.DataFrame
    _arrays: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    @classmethod
    def open(cls, folder: str | Path = SLICES_FOLDER, parts: Iterable[str] = ()) -> "SliceStore":
        """The samples of `parts`, in that order.

        Raises:
            UserError: a part is missing or damaged, or its index and its array don't go together.
        """
        folder, parts = Path(folder), tuple(parts)
        index = read_slice_index(parts, folder)
        for part in parts:
            _check_rows(folder, part, rows=int((index["part"] == part).sum()))
        return cls(folder.absolute(), index)

    def __len__(self) -> int:
        return len(self.index)

    def slices(self, i: int) -> np.ndarray:
        """int16 HU (slices, S, S) of sample i, memory-mapped and read-only."""
        part, row = self.index.at[i, "part"], self.index.at[i, "row"]
        return self._array(part)[row]

    def select(self, splits: Iterable[str]) -> "SliceStore":
        """The samples of the given splits, renumbered from 0."""
        return self._of(self.index[self.index["split"].isin(list(splits))])

    def counted(self, lesions: pd.DataFrame, noisy: Literal["keep", "drop"]) -> "SliceStore":
        """The samples that count (`data.schema.counted_slices`), renumbered from 0."""
        return self._of(counted_slices(self.index, lesions, noisy))

    def _of(self, index: pd.DataFrame) -> "SliceStore":
        return SliceStore(self.folder, index.reset_index(drop=True), self._arrays)

    def _array(self, part: str) -> np.ndarray:
        if part not in self._arrays:
            self._arrays[part] = _mapped(self.folder, part)
        return self._arrays[part]

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "index": self.index, "_arrays": {}}


def read_slice_index(parts: Iterable[str], folder: str | Path = SLICES_FOLDER) -> pd.DataFrame:
    """The index of the parts alone, without a look at the arrays: columns `INDEX_TYPES` and part, RangeIndex.

    Raises:
        UserError: an index is missing, damaged or cut short; file, line, column and value are named.
    """
    tables = [_read_index(Path(folder), part) for part in parts]
    if not tables:
        raise UserError(f"{folder}: no parts asked for; dataset.parts names them")
    return pd.concat(tables, ignore_index=True)


def with_image_sizes(lesions: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """The lesions with the sizes of their slices as preprocessed (px of the archive's slice), whatever Image_size says.

    Args:
        lesions: rows of `data/lesions.csv`.
        index: of `read_slice_index`; lesions of slices that it lacks keep the size that they have.
    """
    sizes = (
        index.set_index("file_name")[IMAGE_SIZE].astype(float).reindex(lesions["file_name"]).set_index(lesions.index)
    )
    return lesions.assign(**sizes.fillna(lesions[IMAGE_SIZE]))


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


def _read_index(folder: Path, part: str) -> pd.DataFrame:
    path, stage = folder / f"{part}.csv", f"preprocess@{part}"
    table = read_table(path, INDEX_TYPES, stage, {"split": SPLITS})
    refuse_value(path, table, "row", table["row"] != table.index, "0, 1, 2 and so on", stage)
    for column in (*IMAGE_SIZE, "scale_x", "scale_y"):
        refuse_value(path, table, column, ~(table[column] > 0), "a number above 0", stage)
    return table.assign(part=part)


def _check_rows(folder: Path, part: str, rows: int) -> None:
    """Compare the number of rows in the index with the array's."""
    found = len(_mapped(folder, part))
    if found != rows:
        raise UserError(
            f"{folder / part}.csv: {rows} rows, but {part}.npy has {found}; run `dvc repro -f preprocess@{part}`"
        )


def _mapped(folder: Path, part: str) -> np.ndarray:
    """The memory map of a part's array: int16 (n, slices, S, S)."""
    path, advice = folder / f"{part}.npy", f"run `dvc repro -f preprocess@{part}`"
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro preprocess@{part}`") from None
    except (ValueError, OverflowError) as error:  # empty, cut short, another format, a header of nonsense
        raise UserError(f"{path}: not a whole .npy array ({' '.join(str(error).split())}); {advice}") from None
    if array.dtype != np.int16 or array.ndim != 4:
        raise UserError(f"{path}: {array.dtype} {array.shape}, expected int16 (n, slices, side, side); {advice}")
    return array
