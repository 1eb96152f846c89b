"""Files that stages hand each other, checked: whole, with the right columns or arrays, types and values.

What is wrong is a UserError with file, line, column and value: pandas alone fills a row that is cut short, and its
errors name neither line nor value. Such a file is damaged or half copied, and `dvc repro -f` of the stage that wrote it
(`stage`, such as "preprocess@01") makes it anew. Nothing here gives or changes a value.
"""

import csv
import math
import re
import zipfile
import zlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError

ColumnTypes = Mapping[str, type]  # column -> str, int, float or, for any text, object
_DAMAGE = (OSError, EOFError, ValueError, TypeError, NotImplementedError, MemoryError, zipfile.BadZipFile, zlib.error)


def check_table(
    path: str | Path,
    types: ColumnTypes,
    stage: str,
    allowed: Mapping[str, Collection[str]] | None = None,
    name: str | None = None,
) -> None:
    """Refuse a CSV file that is missing, not UTF-8 text, empty or cut short, or lacks a column or holds a wrong value.

    `types` are of the columns that are looked at: an empty field is NaN where float, and refused where int or str.
    `allowed` are the values that a column may hold. `name` is what messages call the file, if not by its path.
    """
    name = name or str(path)
    try:
        _check(Path(path).read_text(encoding="utf-8-sig"), types, allowed or {})
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; run `dvc repro {stage}`") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8 text at byte {error.start}; run `dvc repro -f {stage}`") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{name}: {error}; run `dvc repro -f {stage}`") from None


def refuse_rows(name: str | Path, column: pd.Series, wrong: Sequence[bool], expected: str, stage: str) -> None:
    """Refuse the first row of a checked table that is marked as wrong, row 0 being line 2 of the file `name`."""
    rows = np.flatnonzero(wrong)
    if rows.size:
        found = f"{name}: line {rows[0] + 2}: {column.name} = {column.iloc[rows[0]]}"
        raise UserError(f"{found}, expected {expected}; run `dvc repro -f {stage}`")


def read_arrays(path: str | Path, names: Iterable[str], stage: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz file by name; refused if it is missing, isn't a whole archive or lacks one."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro {stage}`") from None
    except KeyError as error:
        raise UserError(f"{path}: {error.args[0]}; run `dvc repro -f {stage}`") from None
    except _DAMAGE as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a whole .npz archive ({reason}); run `dvc repro -f {stage}`") from None


def _check(text: str, types: ColumnTypes, allowed: Mapping[str, Collection[str]]) -> None:
    """Raises ValueError or csv.Error with the first thing that is wrong."""
    *lines, rest = text.split("\n")
    if rest:
        raise ValueError(f"line {len(lines) + 1}: has no end; cut short?")
    reader = csv.reader(lines, strict=True)
    header = next(reader, None)
    if not header:
        raise ValueError("is empty")
    checks = []  # position and name of a column, what its fields must be, in words, and a test of it
    for column, kind in types.items():
        if header.count(column) != 1:
            raise ValueError(f"column {column} is {'there twice' if column in header else 'missing'}")
        checks.append((header.index(column), column, *_FORMS[kind]))
        if choice := allowed.get(column):
            checks.append((header.index(column), column, f"one of {', '.join(choice)}", choice.__contains__))
    for row in reader:
        if len(row) != len(header):
            raise ValueError(f"line {reader.line_num}: has {len(row)} of {len(header)} fields; cut short?")
        for position, column, expected, holds in checks:
            if not holds(row[position]):
                raise ValueError(f"line {reader.line_num}: {column} = {row[position]!r}, expected {expected}")


def _is_finite(field: str) -> bool:
    try:  # pandas reads neither 1_000 nor digits beyond ASCII
        return not field or (math.isfinite(float(field)) and field.isascii() and "_" not in field)
    except ValueError:
        return False


_FORMS = {
    object: ("any text", lambda field: True),
    str: ("some text", bool),
    int: ("a whole number", re.compile("-?[0-9]{1,18}").fullmatch),
    float: ("a finite number", _is_finite),
}
