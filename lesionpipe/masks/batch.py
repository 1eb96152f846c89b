"""All lesions of a part: rows of the tables to weak labels, slices to masks, and what the masks' own table says.

The lesion table and the slice index come from the rooms that own them; `convert`, from original px to stored px, is
handed in.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.data.masks import StoredMask
from lesionpipe.masks.methods import LesionMask, WeakLabel, make_mask
from lesionpipe.masks.recist import RECIST_MARGIN_PX
from lesionpipe.params import Masks

BOX = [f"{corner}_original_px" for corner in ("x1", "y1", "x2", "y2")]
POINTS = [f"recist_{axis}{i}_original_px" for i in (1, 2, 3, 4) for axis in "xy"]
COLUMNS = ("lesion", "method", "reason", "area_px")

Labels = tuple[tuple[int, WeakLabel], ...]  # lesion number and label


class SliceTask(NamedTuple):
    """The lesions of one slice: row `row` of the part's array (n, slices, S, S) of HU at `array`."""

    array: Path
    row: int
    lesions: Labels


def slice_tasks(array: str | Path, index: pd.DataFrame, lesions: pd.DataFrame, convert: Callable) -> list[SliceTask]:
    """One task per slice that has lesions, in the order of the array.

    Args:
        array: the part's .npy.
        index: its rows, with row, file_name, scale_x, scale_y.
        lesions: rows of `data/lesions.csv`; those of other slices are left aside.
        convert: (points in original px, scale_x, scale_y) -> stored px, for (m, 4) and (m, 8) with scales (m,).
    """
    joined = lesions.merge(index[["row", "file_name", "scale_x", "scale_y"]], on="file_name", how="inner")
    joined = joined.sort_values(["row", "lesion"]).reset_index(drop=True)
    scale_x, scale_y = joined["scale_x"].to_numpy(float), joined["scale_y"].to_numpy(float)
    boxes = convert(joined[BOX].to_numpy(float), scale_x, scale_y)
    points = convert(joined[POINTS].to_numpy(float), scale_x, scale_y)
    windows = joined[["window_low_hu", "window_high_hu"]].to_numpy(float)
    margins = RECIST_MARGIN_PX * np.stack([scale_x, scale_y], axis=1)
    numbers = joined["lesion"].tolist()
    labels = [
        (numbers[i], WeakLabel(boxes[i], _points(points[i]), tuple(windows[i].tolist()), tuple(margins[i].tolist())))
        for i in range(len(joined))
    ]
    path = Path(array).absolute()
    rows = joined.groupby("row").indices
    return [SliceTask(path, int(row), tuple(labels[i] for i in rows[row])) for row in sorted(rows)]


def _points(flat: np.ndarray) -> np.ndarray | None:
    """End points (4, 2), or None where any coordinate is unknown."""
    return flat.reshape(4, 2) if np.isfinite(flat).all() else None


def slice_hu(task: SliceTask) -> np.ndarray:
    """int16 (S, S): the lesion slice, which lies in the middle of its stack."""
    stack = np.load(task.array, mmap_mode="r")[task.row]
    return np.array(stack[len(stack) // 2])


def masks_of_slice(task: SliceTask, settings: Masks) -> list[tuple[int, LesionMask]]:
    """Lesion number and mask of every lesion of a slice."""
    hu = slice_hu(task)
    return [(lesion, make_mask(hu, label, settings)) for lesion, label in task.lesions]


def stored(row: int, lesion: int, made: LesionMask) -> StoredMask:
    """A mask as the store wants it."""
    return StoredMask(lesion, row, made.x0, made.y0, made.mask)


def mask_table(made: Iterable[tuple[int, LesionMask]]) -> pd.DataFrame:
    """Per lesion the method that made its mask, why not the chosen one (empty if it was), and its area."""
    rows = [(lesion, mask.method, mask.reason, int(mask.mask.sum())) for lesion, mask in made]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def read_table(path: str | Path) -> pd.DataFrame:
    """`data/masks/NN.csv`: lesion, method, reason ("" where the chosen method served), area_px.

    Raises:
        UserError: the file is missing, or isn't this table.
    """
    part = Path(path).stem
    try:
        return pd.read_csv(path, keep_default_na=False, dtype={"method": str, "reason": str}, usecols=COLUMNS)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro masks@{part}`") from None
    except ValueError as error:  # of pandas' parser and of the text's encoding as well
        raise UserError(f"{path}: {' '.join(str(error).split())}; run `dvc repro -f masks@{part}`") from None
