"""`lesionpipe drop`: free the disk of archives that are preprocessed."""

import re
from typing import Annotated

import typer

from lesionpipe.deeplesion.sources import drop as drop_part
from lesionpipe.errors import UserError


def drop(parts: Annotated[list[str], typer.Argument(help="Preprocessed parts, as 01 02.")]) -> None:
    """Remove the archives of preprocessed parts here and from DVC's cache; go on with `dvc repro --allow-missing`."""
    for part in parts:
        if not re.fullmatch("[0-9]{2}", part):
            raise UserError(f'part "{part}": there is no such part; a part is two digits, such as 01')
    for part in parts:
        print(f"part {part}: {drop_part(part) / 1e9:.3f} GB freed")
