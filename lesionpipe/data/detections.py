"""`data/detections.csv` and `data/heatmaps.npz`: what the stage `detect` leaves, and how it is read back, checked."""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.data.stored.schema import BOX

DETECTIONS = Path("data/detections.csv")
HEATMAPS = Path("data/heatmaps.npz")
DETECTION_COLUMNS = ("split", "file_name", *BOX, "score")
FARTHEST_PX = 1e9  # no coordinate lies beyond; areas of larger numbers overflow


def read_detections(path: str | Path = DETECTIONS, name: str | None = None) -> pd.DataFrame:
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
    if missing := [c for c in DETECTION_COLUMNS if c not in table.columns]:
        raise UserError(f"{name}: column {missing[0]} is missing; expected {', '.join(DETECTION_COLUMNS)}")
    for column in (*BOX, "score"):
        table[column] = _finite(table[column], name)
    for column in BOX:
        _require_near(table[column], name)
    for axis in "xy":
        _require_order(table[f"{axis}1_original_px"], table[f"{axis}2_original_px"], name)
    return table


def read_heatmaps(path: str | Path = HEATMAPS) -> dict[str, np.ndarray]:
    """Mask probability (s, s) uint8, 255 for 1, by file name; empty where the detector has no mask branch.

    Raises:
        UserError: the file is missing, or isn't the whole archive of arrays that the stage `detect` writes.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, heatmaps = arrays["file_name"], arrays["heatmap"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `dvc repro detect` makes it") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error):
        raise UserError(f"{path}: not a whole file of heatmaps; run `dvc repro -f detect`") from None
    fits = names.ndim == 1 and names.dtype.kind == "U" and heatmaps.dtype == np.uint8 and heatmaps.ndim == 3
    if not fits or len(names) != len(heatmaps):
        raise UserError(
            f"{path}: file_name {names.dtype} {names.shape} and heatmap {heatmaps.dtype} {heatmaps.shape}: expected "
            f"a text per uint8 map (n, side, side); run `dvc repro -f detect`"
        )
    return dict(zip(names.tolist(), heatmaps, strict=True))


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
