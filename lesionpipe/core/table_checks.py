"""Checks of the CSV files that stages hand each other: whole, with the right columns, types and values.

pandas alone accepts too much: it fills a row that is cut short, and its errors name neither line nor value. Such a file
is damaged or half copied, and the stage that wrote it makes it anew, so every message names that stage. Nothing here
gives or changes a value: a check passes or stops.
"""

import csv
import io
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from lesionpipe.core.errors import UserError

ColumnTypes = Mapping[str, type]  # column -> str, int or float
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")
_TYPE_NAMES = {str: "some text", int: "a whole number", float: "a finite number"}


def check_table(
    path: str | Path, types: ColumnTypes, stage: str, allowed: Mapping[str, Collection[str]] | None = None
) -> None:
    """Check the columns `types` of a CSV file that a stage wrote; other columns are ignored.

    Args:
        types: an empty field is NaN where float, and refused where int or str.
        stage: what `dvc repro` calls the stage, such as "preprocess@01".
        allowed: column -> the values that it may hold.

    Raises:
        UserError: the file is missing, not UTF-8 text, empty or cut short, lacks a column, or holds a value that its
            column can't have; file, line, column and value are named, and the stage to rerun.
    """
    try:
        _check(Path(path).read_text(encoding="utf-8"), types, allowed or {})
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro {stage}`") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}; run `dvc repro -f {stage}`") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: {error}; run `dvc repro -f {stage}`") from None


def refuse_rows(
    path: str | Path, column: str, values: Sequence, wrong: Sequence[bool], expected: str, stage: str
) -> None:
    """Refuse the first of a checked table's rows that is marked as wrong, row 0 being line 2 of the file.

    Raises:
        UserError: a row is marked; file, line, column and value are named.
    """
    for line, (value, is_wrong) in enumerate(zip(values, wrong, strict=True), start=2):
        if is_wrong:
            raise UserError(f"{path}: line {line}: {column} = {value}, expected {expected}; run `dvc repro -f {stage}`")


def _check(text: str, types: ColumnTypes, allowed: Mapping[str, Collection[str]]) -> None:
    """Look at every field.

    Raises:
        ValueError: the first one that is wrong is named by line and column.
    """
    reader = csv.reader(io.StringIO(text), strict=True)
    header = next(reader, None)
    if not header:
        raise ValueError("is empty")
    missing = [column for column in types if header.count(column) != 1]
    if missing:
        raise ValueError(f"column {missing[0]} is {'there twice' if missing[0] in header else 'missing'}")
    columns = [(header.index(column), column, kind) for column, kind in types.items()]
    for row in reader:
        if len(row) != len(header):
            raise ValueError(f"line {reader.line_num}: has {len(row)} of {len(header)} fields; cut short?")
        for position, column, kind in columns:
            if not _is(row[position], kind):
                raise ValueError(f"line {reader.line_num}: {column} = {row[position]!r}, expected {_TYPE_NAMES[kind]}")
            if column in allowed and row[position] not in allowed[column]:
                expected = ", ".join(allowed[column])
                raise ValueError(f"line {reader.line_num}: {column} = {row[position]!r}, expected one of {expected}")
    if not text.endswith("\n"):
        raise ValueError(f"line {reader.line_num}: has no end; cut short?")


def _is(field: str, kind: type) -> bool:
    """Whether a field holds a value of its column's type."""
    if kind is str:
        return field != ""
    if kind is int:
        return _WHOLE_NUMBER.fullmatch(field) is not None
    try:
        return field == "" or math.isfinite(float(field))
    except ValueError:
        return False
