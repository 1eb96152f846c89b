"""DL_info.csv, DeepLesion's table of lesions, read strictly into typed columns.

One row per lesion, 18 columns, several numbers in one quoted field (DeepLesion's README; paper, sec. 3). An empty field
or a NaN is a value that isn't known and becomes NaN: reconstructed tables have many. Anything else that isn't what its
column holds stops the reader with row, field and value. Coordinates stay 1-based here, as in the file.
"""

import csv
import math
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError

NUMBERS = {  # field -> names of its numbers
    "Measurement_coordinates": [f"recist_{axis}{point}" for point in (1, 2, 3, 4) for axis in "xy"],
    "Bounding_boxes": ["x1", "y1", "x2", "y2"],
    "Lesion_diameters_Pixel_": ["long_diameter_px", "short_diameter_px"],
    "Coarse_lesion_type": ["type"],
    "Possibly_noisy": ["noisy"],
    "Slice_range": ["slice_first", "slice_last"],
    "Spacing_mm_px_": ["spacing_x_mm", "spacing_y_mm", "slice_interval_mm"],
    "Image_size": ["width_original_px", "height_original_px"],
    "DICOM_windows": ["window_low_hu", "window_high_hu"],
    "Train_Val_Test": ["split"],
}
INDICES = {"Patient_index": "patient", "Study_index": "study", "Series_ID": "series", "Key_slice_index": "key_slice"}
COLUMNS_READ = [*INDICES, "File_name", *NUMBERS]
ALLOWED = {"Coarse_lesion_type": (-1, 1, 2, 3, 4, 5, 6, 7, 8), "Possibly_noisy": (0, 1), "Train_Val_Test": (1, 2, 3)}
REQUIRED = "Train_Val_Test"
LARGEST_NUMBER = 1_000_000  # of any field: no pixel, mm, HU or index is beyond
_FILE_NAME = re.compile(r"([0-9]{6})_([0-9]{2})_([0-9]{2})_([0-9]{3,6})\.png")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def read_dl_info(*paths: str | Path) -> pd.DataFrame:
    """The table as typed columns: lesion (1 = first data row), file_name, patient, study, series, key_slice, `NUMBERS`.

    Also `indices_differ`: whether the four index columns contradict the file name, which counts. The rows of several
    files follow one another. A UserError with file, line, field and value where a file is missing, empty, cut short or
    not UTF-8, lacks a column, or a value isn't what its column holds.
    """
    names = ["file_name", *INDICES.values(), "indices_differ", *(name for group in NUMBERS.values() for name in group)]
    frame = pd.DataFrame([row for path in paths for row in _rows_of(Path(path))], columns=names)
    frame.insert(0, "lesion", np.arange(1, len(frame) + 1))
    return frame.astype({"split": int})


def _rows_of(path: Path) -> list[list]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            return list(_typed_rows(reader))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; see dataset.annotations") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); is this DL_info.csv?") from None
    except (csv.Error, ValueError) as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}; correct it or fetch it again") from None


def _typed_rows(lines: Iterable[list[str]]) -> Iterator[list]:
    rows = (row for row in lines if any(field.strip() for field in row))
    header = next(rows, [])
    missing = [name for name in COLUMNS_READ if name not in header]
    if missing or len(set(header)) < len(header):
        problem = f"lacks the column {', '.join(missing)}" if missing else "has a column twice"
        raise ValueError(f"{problem if header else 'is empty'}; is this DeepLesion's DL_info.csv?")
    row = None
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"has {len(row)} fields, the header has {len(header)}; cut short?")
        yield _typed(dict(zip(header, map(str.strip, row), strict=True)))
    if row is None:
        raise ValueError("has a header and no lesion")


def _typed(row: dict[str, str]) -> list:
    found = _FILE_NAME.fullmatch(row["File_name"])
    if not found:
        raise ValueError(f"File_name = {row['File_name']!r}, expected a name like 000001_01_01_109.png")
    indices = [int(index) for index in found.groups()]
    stated = [_number(field, row[field]) for field in INDICES]
    differ = any(s != i and not math.isnan(s) for s, i in zip(stated, indices, strict=True))
    return [found[0], *indices, differ, *(number for field in NUMBERS for number in _numbers(field, row[field]))]


def _numbers(field: str, text: str) -> list[float]:
    """The numbers of one field, NaN where not known."""
    count = len(NUMBERS[field])
    values = [_number(field, token.strip()) for token in text.split(",")] if text else [math.nan] * count
    known = [value for value in values if not math.isnan(value)]
    checked = values if field == REQUIRED else known
    if len(values) != count:
        expected = f"{count} numbers" if count > 1 else "one number"
    elif field in ALLOWED and set(checked) - set(ALLOWED[field]):
        expected = f"one of {', '.join(map(str, ALLOWED[field]))}"
    elif field in ("Slice_range", "Image_size") and any(value % 1 for value in known):
        expected = "whole numbers"
    elif field == "Image_size" and min(known, default=1) < 1:
        expected = "width and height of at least 1"
    else:
        return values
    raise ValueError(f"{field} = {text!r}, expected {expected}")


def _number(field: str, token: str) -> float:
    if token.lower() in ("", "nan"):
        return math.nan
    if not _NUMBER.fullmatch(token):
        raise ValueError(f"{field} = {token!r}, expected a number")
    if abs(float(token)) > LARGEST_NUMBER:
        raise ValueError(f"{field} = {token!r}, expected a number up to {LARGEST_NUMBER:,}")
    return float(token)
