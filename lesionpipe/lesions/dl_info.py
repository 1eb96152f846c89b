"""DL_info.csv, DeepLesion's table of lesions, read strictly into typed columns.

One row per lesion, 18 columns, several numbers in one quoted field (DeepLesion's README; paper, sec. 3). An empty field
or a NaN is a value that isn't known and becomes NaN: reconstructed tables have many. Anything else that isn't what its
column holds stops the reader with row, field and value. Coordinates stay 1-based here, as in the file.
"""

import csv
import math
import re
from collections.abc import Iterator
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
ALLOWED = {"Coarse_lesion_type": (-1, 1, 2, 3, 4, 5, 6, 7, 8), "Possibly_noisy": (0, 1), "Train_Val_Test": (1, 2, 3)}
WHOLE = {*ALLOWED, "Slice_range", "Image_size"}
REQUIRED = {"Train_Val_Test"}
LARGEST_NUMBER = 1_000_000  # of any field: no pixel, mm, HU or index is beyond
_FILE_NAME = re.compile(r"([0-9]{6})_([0-9]{2})_([0-9]{2})_([0-9]{3,6})\.png")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")


def read_dl_info(*paths: str | Path) -> pd.DataFrame:
    """The table as typed columns: lesion (1 = first data row), file_name, patient, study, series, key_slice, `NUMBERS`.

    Also `indices_differ`: whether the four index columns contradict the file name, which counts. The rows of several
    files follow one another.

    Raises:
        UserError: the file is missing, empty, cut short or not UTF-8, lacks a column, or a value isn't what its column
            holds; file, line, field and value are named.
    """
    frame = pd.concat([_one_file(Path(path)) for path in paths], ignore_index=True)
    frame.insert(0, "lesion", np.arange(1, len(frame) + 1))
    return frame.astype({"split": int})


def _one_file(path: Path) -> pd.DataFrame:
    rows = _rows(path)
    line, header = next(rows, (1, []))
    columns = [*INDICES, "File_name", *NUMBERS]
    missing = [name for name in columns if name not in header]
    if not header:
        raise UserError(f"{path}: is empty; a DL_info.csv with its header line is expected")
    if missing or len(set(header)) < len(header):
        problem = f"lacks the column {', '.join(missing)}" if missing else "has a column twice"
        raise UserError(f"{path}: line {line}: {problem}; is this DeepLesion's DL_info.csv?")
    at = {name: header.index(name) for name in columns}
    table = [_typed(path, line, row, at, len(header)) for line, row in rows]
    if not table:
        raise UserError(f"{path}: has a header and no lesion; fetch it again")
    names = ["file_name", *INDICES.values(), "indices_differ", *(n for group in NUMBERS.values() for n in group)]
    return pd.DataFrame(table, columns=names)


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of each row that isn't blank."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as handle:
            reader = csv.reader(handle, strict=True)
            try:
                for row in reader:
                    if any(field.strip() for field in row):
                        yield reader.line_num, row
            except csv.Error as error:
                raise UserError(f"{path}: line {reader.line_num}: {error}; cut short? fetch it again") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; see dataset.annotations") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); is this DL_info.csv?") from None


def _typed(path: str | Path, line: int, row: list[str], at: dict[str, int], width: int) -> list:
    if len(row) != width:
        raise UserError(f"{path}: line {line}: has {len(row)} fields, the header has {width}; is the file cut short?")
    name = row[at["File_name"]].strip()
    found = _FILE_NAME.fullmatch(name)
    if not found:
        raise _wrong(path, line, "File_name", name, "a name like 000001_01_01_109.png")
    indices = [int(index) for index in found.groups()]
    stated = [_one(path, line, field, row[at[field]].strip()) for field in INDICES]
    differ = any(s != i and not math.isnan(s) for s, i in zip(stated, indices, strict=True))
    numbers = [n for field, names in NUMBERS.items() for n in _numbers(path, line, field, row[at[field]], len(names))]
    return [name, *indices, differ, *numbers]


def _numbers(path: str | Path, line: int, field: str, text: str, count: int) -> list[float]:
    """The numbers of one field, NaN where not known."""
    text = text.strip()
    if not text and field not in REQUIRED:
        return [math.nan] * count
    tokens = text.split(",")
    if len(tokens) != count:
        raise _wrong(path, line, field, text, f"{count} numbers" if count > 1 else "one number")
    values = [_one(path, line, field, token.strip()) for token in tokens]
    for value in values:
        if math.isnan(value) and field not in REQUIRED:
            continue
        if field in ALLOWED and value not in ALLOWED[field]:
            raise _wrong(path, line, field, text, f"one of {', '.join(map(str, ALLOWED[field]))}")
        if field in WHOLE and value != int(value):
            raise _wrong(path, line, field, text, "whole numbers")
    if field == "Image_size" and min(values) < 1:
        raise _wrong(path, line, field, text, "width and height of at least 1")
    return values


def _one(path: str | Path, line: int, field: str, token: str) -> float:
    if _NUMBER.fullmatch(token):
        value = float(token)
        if abs(value) > LARGEST_NUMBER:
            raise _wrong(path, line, field, token, f"a number up to {LARGEST_NUMBER:,}")
        return value
    if token.lower() in ("", "nan"):
        return math.nan
    raise _wrong(path, line, field, token, "a number")


def _wrong(path: str | Path, line: int, field: str, value: str, wanted: str) -> UserError:
    return UserError(f"{path}: line {line}: {field} = {value!r}, expected {wanted}; correct it or fetch the file again")
