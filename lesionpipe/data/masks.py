"""The store of masks: one .npz per part, every lesion's mask bit-packed on its own crop of the stored slice.

`data/masks/NN.npz` holds, for n lesions sorted by slice and lesion,

| array | meaning |
|---|---|
| lesion (n,) int32 | lesion number, as in `data/lesions.csv` |
| row (n,) int32 | row of its slice in `data/slices/NN.npy` |
| box (n, 4) int16 | x0, y0, width, height of the crop, px of the stored slice |
| start (n + 1,) int64 | where its bytes start in `bits` |
| bits uint8 | the masks, row by row, eight px a byte, the first px in the highest bit |
| side () int32 | side of the stored slice, px |

Lesions that overlap keep a mask each. Equal masks give equal bytes: the zip carries no time and isn't compressed.
"""

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path

FOLDER = "data/masks"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the date of every member of the zip
TYPES = {"lesion": np.int32, "row": np.int32, "box": np.int16, "start": np.int64, "bits": np.uint8, "side": np.int32}


class StoredMask(NamedTuple):
    """A lesion's mask (h, w) bool, whose first px is x0, y0 of slice `row`."""

    lesion: int
    row: int
    x0: int
    y0: int
    mask: np.ndarray


def write_masks(path: str | Path, masks: Sequence[StoredMask], side: int) -> None:
    """Write a part's masks, sorted by row and lesion.

    Raises:
        ValueError: a mask is empty or reaches outside the slice.
    """
    masks = sorted(masks, key=lambda m: (m.row, m.lesion))
    for mask in masks:
        _check(mask, side)
    packed = [np.packbits(m.mask, axis=None) for m in masks]
    values = {
        "lesion": [m.lesion for m in masks],
        "row": [m.row for m in masks],
        "box": np.reshape([(m.x0, m.y0, m.mask.shape[1], m.mask.shape[0]) for m in masks], (-1, 4)),
        "start": np.cumsum([0, *map(len, packed)]),
        "bits": np.concatenate([np.zeros(0, np.uint8), *packed]),
        "side": side,
    }
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, dtype in TYPES.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy", EPOCH), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(values[name], dtype), allow_pickle=False)


def _check(mask: StoredMask, side: int) -> None:
    height, width = mask.mask.shape
    if not mask.mask.any():
        raise ValueError(f"lesion {mask.lesion}: the mask is empty")
    if mask.x0 < 0 or mask.y0 < 0 or mask.x0 + width > side or mask.y0 + height > side:
        raise ValueError(
            f"lesion {mask.lesion}: the mask at {mask.x0}, {mask.y0} of {width} x {height} px reaches outside {side} px"
        )


class _Part(NamedTuple):
    """The arrays of one part; the masks of slice r are those from first[r] to first[r + 1]."""

    lesion: np.ndarray
    box: np.ndarray
    start: np.ndarray
    bits: np.ndarray
    side: int
    first: np.ndarray


@dataclass(frozen=True)
class MaskStore:
    """All masks of the given parts, held in memory still packed (a few MB for the whole of DeepLesion)."""

    parts: dict[str, _Part]

    @classmethod
    def open(cls, folder: str | Path = FOLDER, parts: Iterable[str] = ()) -> "MaskStore":
        """Read the masks of `parts`.

        Raises:
            UserError: a part is missing or isn't a whole store.
        """
        return cls({part: _read(Path(folder) / f"{part}.npz", part) for part in parts})

    def rows(self, part: str) -> int:
        """One more than the last row of a part that has a mask."""
        return len(self.parts[part].first) - 1

    def of_slice(self, part: str, row: int) -> tuple[np.ndarray, np.ndarray]:
        """The lesions of a slice, int32 (k,), and their masks, bool (k, S, S); k may be 0."""
        held = self.parts[part]
        first, last = (held.first[min(i, len(held.first) - 1)] for i in (row, row + 1))
        masks = np.zeros((last - first, held.side, held.side), bool)
        for mask, i in zip(masks, range(first, last), strict=True):
            x, y, width, height = held.box[i].tolist()
            bits = np.unpackbits(held.bits[held.start[i] : held.start[i + 1]], count=width * height)
            mask[y : y + height, x : x + width] = bits.reshape(height, width)
        return held.lesion[first:last], masks


def _read(path: Path, part: str) -> _Part:
    remedy = f"run `dvc repro -f masks@{part}`"
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in TYPES}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro masks@{part}`") from None
    except (ValueError, TypeError, NotImplementedError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: not a whole store of masks ({error}); {remedy}") from None
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; {remedy}") from None
    sizes = {len(arrays["lesion"]), len(arrays["row"]), len(arrays["box"]), len(arrays["start"]) - 1}
    if len(sizes) > 1 or arrays["start"][-1] != len(arrays["bits"]):
        raise UserError(f"{path}: its arrays don't go together; {remedy}")
    rows = arrays.pop("row")
    first = np.searchsorted(rows, np.arange(rows[-1] + 2 if len(rows) else 1))
    return _Part(**{**arrays, "side": int(arrays["side"])}, first=first)
