"""`data/inputs/negatives/*.csv`: confident boxes of a trained model on training slices that are no lesions.

`lesionpipe mine` writes such a table, in the columns of data/detections.csv, and `train.hard_negatives` names it (after
Tang et al., whose way of mining isn't public). DVC tracks the folder, so that other boxes train again.
"""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.boxes import pairwise_iou
from lesionpipe.core.errors import UserError
from lesionpipe.core.stage_files import check_table
from lesionpipe.data.stored.schema import BOX

NEGATIVES_FOLDER = Path("data/inputs/negatives")
NEGATIVE_TYPES = {"split": str, "file_name": str} | dict.fromkeys([*BOX, "score"], float)
REMEDY = "mine them anew with `lesionpipe mine`"


def select_hard_negatives(
    detections: pd.DataFrame, lesions: pd.DataFrame, least_score: float, largest_iou: float, per_slice: int
) -> pd.DataFrame:
    """The best boxes of each slice that lie off all its lesions, in the order of `detections`.

    Args:
        detections: rows with `NEGATIVE_TYPES`, original px.
        lesions: rows of data/lesions.csv, all of them.
        least_score: of a box.
        largest_iou: with any lesion of the slice; boxes with more are no negatives.
        per_slice: boxes at most.
    """
    known = {name: own[BOX].to_numpy() for name, own in lesions.groupby("file_name")}
    confident = detections[detections["score"] >= least_score]
    kept = [
        own[(pairwise_iou(own[BOX].to_numpy(), known.get(name, np.zeros((0, 4)))) <= largest_iou).all(axis=1)]
        for name, own in confident.groupby("file_name", sort=False)
    ]
    off = pd.concat([confident.iloc[:0], *kept])
    rank = off.groupby("file_name")["score"].rank(method="first", ascending=False)
    return off[rank <= per_slice].sort_index()


def negatives_file(given: str | None) -> Path | None:
    """The file that `train.hard_negatives` names, or None.

    Raises:
        UserError: it lies where DVC doesn't track its content, or doesn't exist.
    """
    if given is None:
        return None
    path = Path(given)
    if not Path(os.path.normpath(path.absolute())).is_relative_to(NEGATIVES_FOLDER.absolute()):
        place = f"train.hard_negatives: {given} lies outside {NEGATIVES_FOLDER}, where DVC notices changes"
        raise UserError(f"{place}; copy or link it there: train.hard_negatives: {NEGATIVES_FOLDER / path.name}")
    if not path.is_file():
        raise UserError(f"train.hard_negatives: {given}: no such file; {REMEDY}")
    return path


def read_hard_negatives(path: str | Path, index: pd.DataFrame) -> pd.DataFrame:
    """A table of mined boxes, checked against the training slices.

    Args:
        path: of the table.
        index: of the training slices, with `file_name`; slices whose lesions are all dropped may be missing.

    Raises:
        UserError: the file is damaged, or a box lies in another split or in a slice of another data set.
    """
    try:
        check_table(path, NEGATIVE_TYPES, "train", {"split": ("train",)})
    except UserError as error:
        raise UserError(f"{str(error).split('; run `dvc')[0]}; {REMEDY}") from None
    table = pd.read_csv(path, dtype=NEGATIVE_TYPES)[list(NEGATIVE_TYPES)]
    wrong = ~table["file_name"].isin(index["file_name"]) | table[BOX].isna().any(axis=1)
    if wrong.any():
        line = int(wrong.to_numpy().argmax()) + 2
        found = f"file_name = {table['file_name'][line - 2]}"
        raise UserError(f"{path}: line {line}: {found}: no training slice of this data set, or no box; {REMEDY}")
    return table
