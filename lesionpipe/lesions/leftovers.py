"""What parts that left `dataset.parts` have in data/ is removed.

DVC leaves the outputs of such parts where they are, but later stages depend on whole folders: their content has to be
that of the parts asked for alone. Otherwise a clean clone, which lacks the leftovers, would run everything anew. DVC's
cache keeps the files, so that parts asked for again come back from there.
"""

from collections.abc import Collection
from pathlib import Path

from lesionpipe.core.files import remove_path

FOLDERS_BY_PART = ("data/inventory", "data/slices", "data/masks")


def remove_other_parts(parts: Collection[str]) -> None:
    """Remove what is called NN or NN.* in `FOLDERS_BY_PART` where NN is not one of `parts`."""
    for folder in map(Path, FOLDERS_BY_PART):
        for path in (*folder.glob("[0-9][0-9]"), *folder.glob("[0-9][0-9].*")):
            if path.name[:2] not in parts:
                remove_path(path)
