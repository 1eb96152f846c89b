"""The store of masks: `data/masks/NN.npz`, every lesion's mask bit-packed on its own crop of the stored slice.

Lesions that overlap keep a mask each. Equal masks give equal bytes: the zip carries no time and isn't compressed.
"""

import zipfile
from collections import namedtuple
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.core.stage_files import read_arrays

MASKS_FOLDER = "data/masks"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the date of every member of the zip
LARGEST_SIDE = 16384  # px
LARGEST_ROW = 10**7  # beyond any part
ARRAY_TYPES = {  # of n lesions sorted by slice and lesion
    "lesion": np.int32,  # (n,) lesion number, as in `data/lesions.csv`
    "row": np.int32,  # (n,) row of its slice in `data/slices/NN.npy`
    "box": np.int16,  # (n, 4) x0, y0, width, height of the crop, px of the stored slice
    "start": np.int64,  # (n + 1,) where its bytes start in `bits`
    "bits": np.uint8,  # the masks, row by row, eight px a byte, the first px in the highest bit
    "side": np.int32,  # () side of the stored slice, px
}
_PartMasks = namedtuple("_PartMasks", ARRAY_TYPES)  # the arrays of one part's file


class StoredMask(NamedTuple):
    """A lesion's mask (h, w) bool, whose first px is x0, y0 of slice `row`."""

    lesion: int
    row: int
    x0: int
    y0: int
    mask: np.ndarray


def write_masks(path: str | Path, masks: Sequence[StoredMask], side: int) -> None:
    """Write a part's masks, sorted by row and lesion; a ValueError where one is empty or reaches outside the slice."""
    masks = sorted(masks, key=lambda m: (m.row, m.lesion))
    for m in masks:
        if not m.mask.any():
            raise ValueError(f"lesion {m.lesion}: the mask is empty")
    packed = [np.packbits(m.mask, axis=None) for m in masks]
    arrays = _PartMasks(
        lesion=[m.lesion for m in masks],
        row=[m.row for m in masks],
        box=np.reshape([(m.x0, m.y0, m.mask.shape[1], m.mask.shape[0]) for m in masks], (-1, 4)),
        start=np.cumsum([0, *map(len, packed)]),
        bits=np.concatenate([np.zeros(0, np.uint8), *packed]),
        side=side,
    )
    held = _PartMasks(*map(np.asarray, arrays, ARRAY_TYPES.values()))
    if problem := _problem(held):
        raise ValueError(problem)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, array in held._asdict().items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", ZIP_DATE), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


@dataclass(frozen=True)
class MaskStore:
    """All masks of the given parts, held in memory still packed (a few MB for the whole of DeepLesion)."""

    parts: dict[str, _PartMasks]

    @classmethod
    def open(cls, folder: str | Path = MASKS_FOLDER, parts: Iterable[str] = ()) -> "MaskStore":
        """Read the masks of `parts`; a UserError where a file is missing or isn't such a store."""
        read = {}
        for part in parts:
            path = Path(folder) / f"{part}.npz"
            read[part] = _PartMasks(**read_arrays(path, ARRAY_TYPES, f"masks@{part}"))
            if problem := _problem(read[part]):
                raise UserError(f"{path}: {problem}; run `dvc repro -f masks@{part}`")
        return cls(read)

    def rows(self, part: str) -> list[int]:
        """The rows of a part's slices that have a mask, rising."""
        return np.unique(self.parts[part].row).tolist()

    def of_slice(self, part: str, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The lesions of a slice, int32 (k,), and their masks, bool (k, S, S); k may be 0."""
        held = self.parts[part]
        first, last = held.row.searchsorted(np.array((row, row + 1), np.int32))
        masks = np.zeros((last - first, held.side, held.side), bool)
        for mask, i in zip(masks, range(first, last), strict=True):
            x, y, width, height = held.box[i].tolist()
            bits = np.unpackbits(held.bits[held.start[i] : held.start[i + 1]], count=width * height)
            mask[y : y + height, x : x + width] = bits.reshape(height, width)
        return held.lesion[first:last], masks


def _problem(held: _PartMasks) -> str | None:
    """What is wrong with the arrays of a part; reading one slice of them is safe if nothing is."""
    n = held.lesion.size
    shapes = {"lesion": (n,), "row": (n,), "box": (n, 4), "start": (n + 1,), "bits": (held.bits.size,), "side": ()}
    for name, array in held._asdict().items():
        if array.dtype != ARRAY_TYPES[name] or array.shape != shapes[name]:
            return f"{name} is {array.dtype} {array.shape}, expected {np.dtype(ARRAY_TYPES[name])} {shapes[name]}"
    if not 0 < held.side <= LARGEST_SIDE:
        return f"side = {held.side}: must be 1 to {LARGEST_SIDE} px"
    outside = (held.row < 0) | (held.row > LARGEST_ROW)
    if outside.any():
        return f"row = {held.row[outside][0]}: must be 0 to {LARGEST_ROW}"
    if (np.lexsort((held.lesion, held.row)) != np.arange(n)).any() or len(np.unique(held.lesion)) < n:
        return "its masks aren't sorted by row and lesion, or a lesion has two"
    x0, y0, width, height = held.box.T.astype(np.int64)
    within = (np.minimum(x0, y0) >= 0) & (np.minimum(width, height) > 0)
    within &= np.maximum(x0 + width, y0 + height) <= held.side
    if not within.all():
        i = int(within.argmin())
        return f"lesion {held.lesion[i]}: box = {held.box[i].tolist()} isn't within {held.side} px"
    if (held.start != np.cumsum([0, *-(-width * height // 8)])).any() or held.start[-1] != held.bits.size:
        return "start and bits don't fit the boxes"
    return None
