"""`data/detections.csv` and `data/heatmaps.npz`: what the stage `detect` leaves, and how it is read back, checked."""

from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.data.schema import BOX

DETECTIONS = Path("data/detections.csv")
HEATMAPS = Path("data/heatmaps.npz")
COLUMNS = ("split", "file_name", *BOX, "score")
FARTHEST_PX = 1e9  # no coordinate lies beyond; areas of larger numbers overflow


def read_detections(path: str | Path = "data/detections.csv", name: str | None = None) -> pd.DataFrame:
    """Read a table of detections: split, file_name, four corners in original_px, score.

    Args:
        path: the file.
        name: what messages call it; none: its path.

    Raises:
        UserError: the file is missing or not CSV, a column is missing, or a number is absent, NaN or infinite, or a box
            has x2 < x1 or y2 < y1 or lies beyond 1e9 px; the line of the file is named.
    """
    name = name or str(path)
    try:
        table = pd.read_csv(path, dtype={"split": str, "file_name": str}, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; `dvc repro detect` makes it") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: not a CSV table: {' '.join(str(error).split())}") from None
    if not isinstance(table.index, pd.RangeIndex):
        raise UserError(f"{name}: line 2: more fields than the header names; write the table anew")
    if missing := [c for c in ("split", "file_name", *BOX, "score") if c not in table.columns]:
        raise UserError(f"{name}: column {missing[0]} is missing; expected split, file_name, {', '.join(BOX)}, score")
    for column in (*BOX, "score"):
        table[column] = _finite(table[column], name)
    for column in BOX:
        _require_near(table[column], name)
    for axis in "xy":
        _require_order(table[f"{axis}1_original_px"], table[f"{axis}2_original_px"], name)
    return table


def _require_order(low: pd.Series, high: pd.Series, path: str) -> None:
    if (bad := (high < low).to_numpy()).any():
        row = int(np.argmax(bad))
        raise UserError(
            f"{path}: line {row + 2}: {high.name} = {high[row]} is less than {low.name} = {low[row]}; "
            f"corners are x1 <= x2, y1 <= y2"
        )


def _require_near(corner: pd.Series, path: str) -> None:
    if (bad := (corner.abs() > FARTHEST_PX).to_numpy()).any():
        row = int(np.argmax(bad))
        raise UserError(f"{path}: line {row + 2}: {corner.name} = {corner[row]} is no place in a slice")


def _finite(column: pd.Series, path: str) -> pd.Series:
    values = pd.to_numeric(column, errors="coerce").astype(np.float64)
    if (bad := ~np.isfinite(values.to_numpy())).any():
        row = int(np.argmax(bad))
        raise UserError(f"{path}: line {row + 2}: {column.name} = {str(column.iloc[row])!r} is not a finite number")
    return values
