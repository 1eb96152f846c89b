"""The inputs of an evaluation, from the workspace or from a Git revision or DVC experiment of this repository."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import pandas as pd
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import SCMError

from lesionpipe.core.errors import UserError
from lesionpipe.data.detections import DETECTIONS, read_detections
from lesionpipe.data.stored.schema import LESIONS_CSV, read_lesions
from lesionpipe.data.stored.slices import SLICES_FOLDER, read_slice_index
from lesionpipe.evaluate.truth import Detections, Truth, counted_tables, detections_of_split, truth_of_split


def open_run(name: str, split: str, parts: Iterable[str], noisy: Literal["keep", "drop"]) -> tuple[Truth, Detections]:
    """A side of a comparison: what it was evaluated on, and what it found.

    Args:
        name: the path of a detections.csv, scored on the workspace's slices and lesions, or a Git revision or
            experiment name, read with its own slices and lesions from DVC's cache or remote.
        parts: of the workspace.
        noisy: `lesions.noisy`, by which both sides are judged.

    Raises:
        UserError: no such file or revision, an output that is in no cache, or a table that is wrong.
    """
    if Path(name).is_file():
        return _run_of(name, split, noisy, Path(name), Path(LESIONS_CSV), read_slice_index(parts))
    with tempfile.TemporaryDirectory() as folder:
        files = _fetch(name, Path(folder))
        own_parts = sorted(path.stem for path in (files / SLICES_FOLDER).glob("*.csv"))
        index = read_slice_index(own_parts, files / SLICES_FOLDER)
        return _run_of(f"{name}:{DETECTIONS}", split, noisy, files / DETECTIONS, files / LESIONS_CSV, index)


def _run_of(
    source: str, split: str, noisy: str, found: Path, lesions: Path, index: pd.DataFrame
) -> tuple[Truth, Detections]:
    counted, rows, detections = counted_tables(index, read_lesions(lesions), read_detections(found, source), noisy)
    truth = truth_of_split(counted, rows, split)[0]
    return truth, detections_of_split(detections, truth, split, source)


def _fetch(revision: str, folder: Path) -> Path:
    """Copy the three kinds of files of a revision into `folder`, under their own paths."""
    with _explained(revision):
        system = DVCFileSystem(repo=".", rev=revision)
        indices = [path for path in system.ls(SLICES_FOLDER, detail=False) if path.endswith(".csv")]
        for path in (DETECTIONS.as_posix(), LESIONS_CSV, *indices):
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(target))
    return folder


@contextlib.contextmanager
def _explained(revision: str) -> Iterator[None]:
    try:
        yield
    except SCMError:
        raise UserError(f"{revision}: neither a file nor a Git revision nor an experiment of `dvc exp list`") from None
    except (FileNotFoundError, DvcException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{revision}: its detections, lesions or slices are in no cache ({reason}); "
            f"`dvc fetch` or reproduce that revision"
        ) from None
