"""`data/lesions.csv`: its columns, their types, and how it is read back. One row per usable lesion.

Coordinates count from 0, the centre of the first pixel of the archive's slice; units stand in the names. What reads
the table depends on this file alone, so that a changed check of `annotations.py` retrains nothing unless a row differs.
"""

from pathlib import Path

import pandas as pd

from lesionpipe.core.errors import UserError

SPLITS = ("train", "val", "test")
TYPES = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
BOX = ["x1_original_px", "y1_original_px", "x2_original_px", "y2_original_px"]
RECIST = [f"recist_{axis}{point}_original_px" for point in (1, 2, 3, 4) for axis in "xy"]
COLUMNS = [
    *("lesion", "file_name", "part", "patient", "study", "series", "key_slice", "split", "type", "noisy"),
    *BOX,
    *RECIST,
    *("long_diameter_mm", "short_diameter_mm", "spacing_mm", "slice_interval_mm"),
    *("width_original_px", "height_original_px", "window_low_hu", "window_high_hu", "slice_first", "slice_last"),
]
_TEXT = ("file_name", "part", "split", "type")
_WHOLE = ("lesion", "patient", "study", "series", "key_slice")
TYPES_OF_COLUMNS = {name: str if name in _TEXT else int if name in _WHOLE else float for name in COLUMNS}


def read_lesions(path: str | Path = "data/lesions.csv") -> pd.DataFrame:
    """`data/lesions.csv` with fixed types: text, ints for the indices, floats (NaN: not known) for all else.

    Raises:
        UserError: the file is missing, or a column is missing or of another type.
    """
    try:
        return pd.read_csv(path, dtype=TYPES_OF_COLUMNS, usecols=COLUMNS)[COLUMNS]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro lesions`") from None
    except ValueError as error:
        raise UserError(f"{path}: {' '.join(str(error).split())}; run `dvc repro -f lesions`") from None
