"""The store of preprocessed slices, read through a memory map (paper, sec. 3.1; the files: `data.stored.slice_writer`);
from px of the archive's slice to px of the stored one and back, and from HU to the network's range.

A part whose array and index don't go together, or one of whose files is missing, damaged or half copied, is refused
before any work by a UserError that names file, row, column and value.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from array_api_compat import array_namespace

from lesionpipe.core.errors import UserError
from lesionpipe.core.stage_files import check_table, refuse_rows
from lesionpipe.data.stored.schema import SPLITS, counted_slices
from lesionpipe.data.stored.slice_writer import INDEX_TYPES, SLICES_FOLDER

IMAGE_SIZE = ["width_original_px", "height_original_px"]


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
        """The samples of `parts`, in that order; a UserError where one is missing or damaged."""
        folder, parts = Path(folder), tuple(parts)
        index = read_slice_index(parts, folder)
        rows_of = index["part"].value_counts()
        for part in parts:
            rows, found = int(rows_of.get(part, 0)), len(_mapped(folder, part))
            if rows != found:
                unequal = f"{folder / part}.csv: {rows} rows, but {part}.npy has {found}"
                raise UserError(f"{unequal}; run `dvc repro -f preprocess@{part}`")
        return cls(folder.absolute(), index)

    def __len__(self) -> int:
        return len(self.index)

    def slices(self, i: int) -> np.ndarray:
        """int16 HU (slices, S, S) of sample i, memory-mapped and read-only."""
        part, row = self.index.at[i, "part"], self.index.at[i, "row"]
        if part not in self._arrays:
            self._arrays[part] = _mapped(self.folder, part)
        return self._arrays[part][row]

    def select(self, splits: Iterable[str]) -> "SliceStore":
        """The samples of the given splits, renumbered from 0."""
        chosen = self.index[self.index["split"].isin(list(splits))]
        return replace(self, index=chosen.reset_index(drop=True))

    def counted(self, lesions: pd.DataFrame, noisy: Literal["keep", "drop"]) -> "SliceStore":
        """The samples that count (`data.stored.schema.counted_slices`), renumbered from 0."""
        return replace(self, index=counted_slices(self.index, lesions, noisy).reset_index(drop=True))

    def __getstate__(self) -> dict:
        return {"folder": self.folder, "index": self.index, "_arrays": {}}


def read_slice_index(parts: Iterable[str], folder: str | Path = SLICES_FOLDER) -> pd.DataFrame:
    """The index of the parts alone, without a look at the arrays: columns `INDEX_TYPES` and part, RangeIndex."""
    tables = [_read_index(Path(folder) / f"{part}.csv", f"preprocess@{part}").assign(part=part) for part in parts]
    if not tables:
        raise UserError(f"{folder}: no parts asked for; dataset.parts names them")
    return pd.concat(tables, ignore_index=True)


def with_image_sizes(lesions: pd.DataFrame, index: pd.DataFrame) -> pd.DataFrame:
    """The lesions with the image sizes of `index`, whatever Image_size says; on slices that it lacks, their own."""
    known = index.set_index("file_name")[IMAGE_SIZE].astype(float)
    sizes = known.reindex(lesions["file_name"]).set_index(lesions.index)
    return lesions.assign(**sizes.fillna(lesions[IMAGE_SIZE]))


def to_stored(points, scale_x, scale_y) -> np.ndarray:
    """Points or boxes (…, 2m), last axis x, y, x, y, …, from px of the archive's slice to px of the stored slice.

    x' = (x + 0.5) · scale - 0.5, since the centre of the first pixel is 0. `scale_x` (stored side / archive width) and
    `scale_y` are numbers, or arrays that go with the leading axes of `points`. Float64, the shape of `points`.
    """
    points, scale = _with_scale(points, scale_x, scale_y)
    return (points + 0.5) * scale - 0.5


def to_original(points, scale_x, scale_y) -> np.ndarray:
    """The inverse of `to_stored`: from px of the stored slice to px of the archive's slice."""
    points, scale = _with_scale(points, scale_x, scale_y)
    return (points + 0.5) / scale - 0.5


def _with_scale(points, scale_x, scale_y) -> tuple[np.ndarray, np.ndarray]:
    """The points as float64 and, for each of their last axis, its scale."""
    points = np.asarray(points, dtype=np.float64)
    pair = np.stack(np.broadcast_arrays(np.float64(scale_x), np.float64(scale_y)), axis=-1)  # (…, 2)
    return points, np.tile(pair, points.shape[-1] // 2)


def normalise(hu_values, hu_range: tuple[int, int]):
    """HU within `hu_range` to float32 in [-1, 1]; an array or a tensor of any shape and type (paper, sec. 3.1)."""
    xp = array_namespace(hu_values)
    low, high = hu_range
    return (xp.astype(hu_values, xp.float32) - low) * (2.0 / (high - low)) - 1.0


def _read_index(path: Path, stage: str) -> pd.DataFrame:
    check_table(path, INDEX_TYPES, stage, {"split": SPLITS})
    table = pd.read_csv(path, dtype=INDEX_TYPES, usecols=list(INDEX_TYPES))[list(INDEX_TYPES)]
    refuse_rows(path, table["row"], table["row"] != table.index, "0, 1, 2 and so on", stage)
    refuse_rows(path, table["file_name"], table["file_name"].duplicated(), "each slice once", stage)
    for column in (*IMAGE_SIZE, "scale_x", "scale_y"):
        refuse_rows(path, table[column], ~(table[column] > 0), "a number above 0", stage)
    return table


def _mapped(folder: Path, part: str) -> np.ndarray:
    """The memory map of a part's array: int16 (n, slices, S, S)."""
    path, advice = folder / f"{part}.npy", f"run `dvc repro -f preprocess@{part}`"
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro preprocess@{part}`") from None
    except (ValueError, OverflowError) as error:  # empty, cut short, another format, a header of nonsense
        raise UserError(f"{path}: not a whole .npy array ({' '.join(str(error).split())}); {advice}") from None
    if array.dtype != np.int16 or array.ndim != 4 or array.shape[2] != array.shape[3]:
        raise UserError(f"{path}: {array.dtype} {array.shape}, expected int16 (n, slices, side, side); {advice}")
    return array
