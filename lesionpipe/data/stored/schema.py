"""`data/lesions.csv`: its columns and their types, how it is read, and which of its lesions count.

One row per usable lesion. Coordinates count from 0, the centre of the first pixel of the archive's slice; units stand
in the names. Lesions marked Possibly_noisy are in the table; `lesions.noisy` decides where lesions are used whether
they count (papers differ).
"""

from collections.abc import Collection
from pathlib import Path
from typing import Literal

import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.core.stage_files import check_table, refuse_rows

SPLITS = ("train", "val", "test")
TYPES = ("bone", "abdomen", "mediastinum", "liver", "lung", "kidney", "soft tissue", "pelvis")
BOX = ["x1_original_px", "y1_original_px", "x2_original_px", "y2_original_px"]
RECIST = [f"recist_{axis}{point}_original_px" for point in (1, 2, 3, 4) for axis in "xy"]
RECIST_MARGIN_PX = 5.0  # original px that DeepLesion's boxes leave around the RECIST end points
COLUMNS = [
    *("lesion", "file_name", "part", "patient", "study", "series", "key_slice", "split", "type", "noisy"),
    *BOX,
    *RECIST,
    *("long_diameter_mm", "short_diameter_mm", "spacing_mm", "slice_interval_mm"),
    *("width_original_px", "height_original_px", "window_low_hu", "window_high_hu", "slice_first", "slice_last"),
]
LESIONS_CSV = "data/lesions.csv"
LESIONS_BY_PART = "data/lesions_by_part"  # NN.csv: the rows of one part, so that its masks depend on these alone
TYPES_OF_COLUMNS = (
    dict.fromkeys(COLUMNS, float)
    | dict.fromkeys(("file_name", "part", "split", "type"), str)
    | dict.fromkeys(("lesion", "patient", "study", "series", "key_slice"), int)
)


def read_lesions(path: str | Path = LESIONS_CSV) -> pd.DataFrame:
    """`data/lesions.csv` with fixed types, NaN where not known; a UserError where it is missing, damaged or empty."""
    lesions = _lesions(path)
    if lesions.empty:
        raise UserError(f"{path}: has a header and no lesion; run `dvc repro -f lesions`")
    return lesions


def read_part_lesions(part: str, folder: str | Path = LESIONS_BY_PART) -> pd.DataFrame:
    """The rows of `data/lesions.csv` that lie in one part, from `data/lesions_by_part/NN.csv`; there may be none."""
    return _lesions(Path(folder) / f"{part}.csv", part=(part,))


def _lesions(path: str | Path, **allowed: Collection[str]) -> pd.DataFrame:
    check_table(path, TYPES_OF_COLUMNS, "lesions", {"split": SPLITS, **allowed})
    lesions = pd.read_csv(path, dtype=TYPES_OF_COLUMNS, usecols=COLUMNS)[COLUMNS]
    refuse_rows(path, lesions["lesion"], lesions["lesion"].duplicated(), "each lesion once", "lesions")
    for column in BOX:
        refuse_rows(path, lesions[column], lesions[column].isna(), "a number", "lesions")
    return lesions


def counted_lesions(lesions: pd.DataFrame, noisy: Literal["keep", "drop"]) -> pd.DataFrame:
    """The rows that count, index kept: all, or where `noisy` is "drop" those not known to be noisy (mark 1)."""
    return lesions if noisy == "keep" else lesions[lesions["noisy"] != 1]


def counted_slices(index: pd.DataFrame, lesions: pd.DataFrame, noisy: Literal["keep", "drop"]) -> pd.DataFrame:
    """The rows of a slice index that count, index kept: without the slices whose lesions are all dropped.

    `lesions` are all rows of `data/lesions.csv`, also the noisy ones; slices without any lesion stay.
    """
    dropped = set(lesions["file_name"]) - set(counted_lesions(lesions, noisy)["file_name"])
    return index[~index["file_name"].isin(dropped)]
