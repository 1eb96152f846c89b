"""The inputs of an evaluation, from the workspace or from a Git revision or DVC experiment of this repository."""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import SCMError

from lesionpipe.core.errors import UserError
from lesionpipe.data.detections import read_detections
from lesionpipe.data.schema import read_lesions
from lesionpipe.evaluate.truth import Detections, Truth, detections_of_split, truth_of_split
from lesionpipe.params import load_params

DETECTIONS = "data/detections.csv"
LESIONS = "data/lesions.csv"
SLICES = "data/slices"


@dataclass(frozen=True)
class Run:
    """One side of a comparison: what it was evaluated on, and what it found."""

    name: str
    truth: Truth
    detections: Detections


def open_run(name: str, split: str) -> Run:
    """A side of a comparison: the path of a detections.csv, scored on the workspace's slices and lesions, or a Git
    revision or experiment name, read with its own slices and lesions from DVC's cache or remote.

    Raises:
        UserError: no such file or revision, an output that is in no cache, or a table that is wrong.
    """
    if Path(name).is_file():
        parts = load_params().dataset.parts
        return _run(name, name, split, Path(name), Path(LESIONS), [Path(SLICES) / f"{part}.csv" for part in parts])
    with tempfile.TemporaryDirectory() as folder:
        files = _fetch(name, Path(folder))
        indices = sorted(files / SLICES / path.name for path in (files / SLICES).glob("*.csv"))
        return _run(name, f"{name}:{DETECTIONS}", split, files / DETECTIONS, files / LESIONS, indices)


def _run(name: str, source: str, split: str, found: Path, lesions: Path, indices: Iterable[Path]) -> Run:
    index = pd.concat([_read_index(path) for path in indices], ignore_index=True)
    truth = truth_of_split(index, read_lesions(lesions), split)[0]
    return Run(name, truth, detections_of_split(read_detections(found, source), truth, split, source))


def _read_index(path: Path) -> pd.DataFrame:
    """A part's index alone: the slices themselves need not be there."""
    try:
        return pd.read_csv(path, dtype={"file_name": str, "split": str}, usecols=["file_name", "split", "patient"])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run `dvc repro preprocess@{path.stem}`") from None


def _fetch(revision: str, folder: Path) -> Path:
    """Copy the three kinds of files of a revision into `folder`, under their own paths."""
    with _explained(revision):
        system = DVCFileSystem(repo=".", rev=revision)
        indices = [path for path in system.ls(SLICES, detail=False) if path.endswith(".csv")]
        for path in (DETECTIONS, LESIONS, *indices):
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
