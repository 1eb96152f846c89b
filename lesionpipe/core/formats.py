"""How JSON and CSV are written everywhere: the same content gives the same bytes. A change here changes outputs."""

import json
from pathlib import Path

import pandas as pd

from lesionpipe.core.files import write_text


def write_json(path: str | Path, value: object) -> None:
    """Write JSON atomically; NaN and infinity are refused because strict readers refuse them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False))


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table atomically: no index, Unix line ends, floats with at most 9 significant digits."""
    write_text(path, table.to_csv(index=False, lineterminator="\n", float_format="%.9g"))
