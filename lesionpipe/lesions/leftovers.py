"""What parts that left `dataset.parts` have in data/ is removed.

DVC leaves the outputs of such parts where they are, but later stages depend on whole folders: their content has to be
that of the parts asked for alone. Otherwise a clean clone, which lacks the leftovers, would run everything anew. DVC's
cache keeps the files, so that parts asked for again come back from there.
"""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

FOLDERS_BY_PART = ("data/phantom", "data/inventory", "data/slices", "data/masks")
_PART_NAME = re.compile(r"([0-9]{2})(\..+)?")


def remove_other_parts(parts: Iterable[str], folders: Iterable[str | Path] = FOLDERS_BY_PART) -> list[Path]:
    """Remove what is called NN or NN.* in the folders where NN is not one of `parts`; gives the paths removed."""
    kept, removed = set(parts), []
    for folder in map(Path, folders):
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            name = _PART_NAME.fullmatch(path.name)
            if name and name[1] not in kept:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()
                removed.append(path)
    return removed
