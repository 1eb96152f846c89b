"""All lesions of a part: weak labels from the rows of its lesions, masks from its slices, and the table of methods.

`data/masks/NN.csv` has a line per mask: lesion, method (that made the mask), reason (why not the chosen method; empty
where it was), area_px.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.data.stored.geometry import to_stored
from lesionpipe.data.stored.schema import BOX, RECIST, RECIST_MARGIN_PX
from lesionpipe.masks.methods import LesionMask, MaskSettings, WeakLabel, make_mask

METHOD_COLUMNS = {"lesion": int, "method": str, "reason": str, "area_px": int}


class SliceTask(NamedTuple):
    """The lesions of one slice: row `row` of the part's array (n, slices, S, S) of HU at `array`."""

    array: Path
    row: int
    lesions: tuple[tuple[int, WeakLabel], ...]  # lesion number and label


def slice_tasks(array: str | Path, index: pd.DataFrame, lesions: pd.DataFrame) -> list[SliceTask]:
    """One task per slice that has lesions, in the order of the array.

    Args:
        array: the part's .npy.
        index: its rows, with row, file_name, scale_x, scale_y.
        lesions: rows of `data/lesions.csv`; those of other slices are left aside.
    """
    joined = lesions.merge(index[["row", "file_name", "scale_x", "scale_y"]], on="file_name", how="inner")
    joined = joined.sort_values(["row", "lesion"]).reset_index(drop=True)
    labels = list(zip(joined["lesion"].tolist(), _weak_labels(joined), strict=True))
    rows = joined.groupby("row").indices
    path = Path(array).absolute()
    return [SliceTask(path, int(row), tuple(labels[i] for i in rows[row])) for row in sorted(rows)]


def _weak_labels(lesions: pd.DataFrame) -> list[WeakLabel]:
    """One label per row of lesions that are joined with the scales of their slices."""
    scale_x, scale_y = lesions["scale_x"].to_numpy(float), lesions["scale_y"].to_numpy(float)
    boxes = to_stored(lesions[BOX].to_numpy(float), scale_x, scale_y)
    points = to_stored(lesions[RECIST].to_numpy(float), scale_x, scale_y)
    windows = lesions[["window_low_hu", "window_high_hu"]].to_numpy(float)
    margins = RECIST_MARGIN_PX * np.stack([scale_x, scale_y], axis=1)
    return [
        WeakLabel(box, _end_points(ends), tuple(window.tolist()), tuple(margin.tolist()))
        for box, ends, window, margin in zip(boxes, points, windows, margins, strict=True)
    ]


def _end_points(coordinates: np.ndarray) -> np.ndarray | None:
    """End points (4, 2) from 8 coordinates, or None where any isn't known."""
    return coordinates.reshape(4, 2) if np.isfinite(coordinates).all() else None


def lesion_slice(task: SliceTask) -> np.ndarray:
    """int16 (S, S): the lesion slice, which lies in the middle of its stack."""
    stack = np.load(task.array, mmap_mode="r")[task.row]
    return np.array(stack[len(stack) // 2])


def masks_of_slice(task: SliceTask, settings: MaskSettings) -> list[tuple[int, LesionMask]]:
    """Lesion number and mask of every lesion of a slice."""
    hu = lesion_slice(task)
    return [(lesion, make_mask(hu, label, settings)) for lesion, label in task.lesions]


def methods_table(made: Iterable[tuple[int, LesionMask]]) -> pd.DataFrame:
    """`METHOD_COLUMNS` of lesion numbers and their masks, in the order given."""
    rows = [(lesion, mask.method, mask.reason, int(mask.mask.sum())) for lesion, mask in made]
    return pd.DataFrame(rows, columns=list(METHOD_COLUMNS))


def read_methods_table(path: str | Path) -> pd.DataFrame:
    """`data/masks/NN.csv`: `METHOD_COLUMNS`, with "" as the reason where the chosen method made the mask.

    Raises:
        UserError: the file is missing, or isn't this table.
    """
    part = Path(path).stem
    try:
        return pd.read_csv(path, keep_default_na=False, dtype=METHOD_COLUMNS, usecols=list(METHOD_COLUMNS))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro masks@{part}`") from None
    except ValueError as error:  # of pandas' parser and of the text's encoding as well
        raise UserError(f"{path}: {' '.join(str(error).split())}; run `dvc repro -f masks@{part}`") from None
