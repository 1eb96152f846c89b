"""`lesionpipe drop`: free the disk of archives that are preprocessed."""

from typing import Annotated

import typer

from lesionpipe.download import sources


def drop(parts: Annotated[list[str], typer.Argument(help="Preprocessed parts, as 01 02.")]) -> None:
    """Remove the archives of preprocessed parts here and from DVC's cache; go on with `dvc repro --allow-missing`."""
    for part in parts:
        sources.check_drop(part)
    for part in parts:
        print(f"part {part}: {sources.drop(part) / 1e9:.3f} GB freed")
