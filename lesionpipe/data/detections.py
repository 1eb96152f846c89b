"""`data/detections.csv` and `data/heatmaps.npz`: what the stage `detect` leaves, and how it is read back, checked."""

from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.stage_files import check_table, read_arrays, refuse_rows
from lesionpipe.data.stored.schema import BOX

DETECTIONS = Path("data/detections.csv")
HEATMAPS = Path("data/heatmaps.npz")
DETECTION_TYPES = {"split": str, "file_name": str} | dict.fromkeys([*BOX, "score"], float)
DETECTION_COLUMNS = tuple(DETECTION_TYPES)
FARTHEST_PX = 1e9  # no coordinate lies beyond; areas of larger numbers overflow


def read_detections(path: str | Path = DETECTIONS, name: str | None = None) -> pd.DataFrame:
    """Read a table of detections (split, file_name, four corners in original_px, score); messages call it `name`.

    A UserError with line, column and value where the file is missing, damaged or cut short, a number absent, NaN or
    infinite, or a box has x2 < x1 or y2 < y1 or lies beyond 1e9 px.
    """
    name = name or str(path)
    check_table(path, DETECTION_TYPES, "detect", name=name)
    table = pd.read_csv(path, dtype=DETECTION_TYPES, keep_default_na=False, na_values=[""])[list(DETECTION_COLUMNS)]
    for column in (*BOX, "score"):
        refuse_rows(name, table[column], table[column].isna(), "a number", "detect")
    for column in BOX:
        refuse_rows(name, table[column], table[column].abs() > FARTHEST_PX, "a place in a slice", "detect")
    for low, high in zip(BOX[:2], BOX[2:], strict=True):
        refuse_rows(name, table[high], table[high] < table[low], f"{low} or more", "detect")
    return table


def read_heatmaps(path: str | Path = HEATMAPS) -> dict[str, np.ndarray]:
    """Mask probability (s, s) uint8, 255 for 1, by file name; none without a mask branch; a UserError if damaged."""
    names, heatmaps = read_arrays(path, ("file_name", "heatmap"), "detect").values()
    fits = names.ndim == 1 and names.dtype.kind == "U" and heatmaps.dtype == np.uint8 and heatmaps.ndim == 3
    if not fits or len(names) != len(heatmaps):
        raise UserError(
            f"{path}: file_name {names.dtype} {names.shape} and heatmap {heatmaps.dtype} {heatmaps.shape}: expected "
            f"a text per uint8 map (n, side, side); run `dvc repro -f detect`"
        )
    return dict(zip(names.tolist(), heatmaps, strict=True))
