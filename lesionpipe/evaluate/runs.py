"""What is compared: detections from the workspace, or from a Git revision or DVC experiment of this repository."""

import dataclasses
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from dvc.api import DVCFileSystem
from dvc.exceptions import DvcException
from dvc.scm import SCMError

from lesionpipe.core.errors import UserError
from lesionpipe.data.detections import DETECTIONS, read_detections
from lesionpipe.data.stored.schema import LESIONS_CSV, read_lesions
from lesionpipe.data.stored.slices import SLICES_FOLDER, read_slice_index
from lesionpipe.evaluate.truth import Detections, Truth, counted_tables, detections_of_split, truth_of_split


def open_runs(
    names: Sequence[str], split: str, parts: Iterable[str], noisy: Literal["keep", "drop"]
) -> tuple[Truth, list[Detections]]:
    """What all runs were evaluated on, and what each of them found there, all judged by `noisy` (`lesions.noisy`).

    A name is the path of a detections.csv, scored on the slices of `parts` and the lesions of the workspace, or a Git
    revision or experiment, read with its own slices and lesions from DVC's cache or remote. A UserError where there is
    no such file or revision, an output is in no cache, a table is wrong, or runs were evaluated on different slices or
    lesions.
    """
    runs = [_open_run(name, split, parts, noisy) for name in names]
    truth, found = runs[0][0], []
    for name, (own, detections) in zip(names, runs, strict=True):
        if _contents(own) != _contents(truth):
            first, other = (f"{len(t.images)} slices, {len(t.lesion_images)} lesions" for t in (truth, own))
            raise UserError(
                f"evaluated on different sets ({names[0]}: {first}; {name}: {other}); "
                f"compare runs with the same dataset.parts and lesions.noisy"
            )
        places = pd.Index(truth.images).get_indexer(own.images)  # the order of the slices may differ
        found.append(dataclasses.replace(detections, images=places[detections.images]))
    return truth, found


def _open_run(name: str, split: str, parts: Iterable[str], noisy: str) -> tuple[Truth, Detections]:
    if Path(name).is_file():
        return _read_run(name, split, noisy, Path(name), Path(LESIONS_CSV), read_slice_index(parts))
    with tempfile.TemporaryDirectory() as folder:
        _fetch(name, Path(folder))
        slices = Path(folder) / SLICES_FOLDER
        index = read_slice_index(sorted(path.stem for path in slices.glob("*.csv")), slices)
        files = (Path(folder) / DETECTIONS, Path(folder) / LESIONS_CSV)
        return _read_run(f"{name}:{DETECTIONS}", split, noisy, *files, index)


def _read_run(
    source: str, split: str, noisy: str, found: Path, lesions: Path, index: pd.DataFrame
) -> tuple[Truth, Detections]:
    counted, rows, detections = counted_tables(index, read_lesions(lesions), read_detections(found, source), noisy)
    truth = truth_of_split(counted, rows, split)[0]
    return truth, detections_of_split(detections, truth, split, source)


def _fetch(revision: str, folder: Path) -> None:
    """Copy the three kinds of files of a revision into `folder`, under their own paths."""
    try:
        system = DVCFileSystem(repo=".", rev=revision)
        indices = [path for path in system.ls(SLICES_FOLDER, detail=False) if path.endswith(".csv")]
        for path in (DETECTIONS.as_posix(), LESIONS_CSV, *indices):
            target = folder / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(target))
    except SCMError:
        raise UserError(f"{revision}: neither a file nor a Git revision nor an experiment of `dvc exp list`") from None
    except (FileNotFoundError, DvcException) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{revision}: its detections, lesions or slices are in no cache ({reason}); "
            f"`dvc fetch` or reproduce that revision"
        ) from None


def _contents(truth: Truth) -> tuple[list[str], list[tuple]]:
    """Slices and lesions, whatever their order."""
    names = np.array(truth.images, dtype=object)[truth.lesion_images]
    return sorted(truth.images), sorted((n, *box) for n, box in zip(names, truth.lesion_boxes.tolist(), strict=True))
