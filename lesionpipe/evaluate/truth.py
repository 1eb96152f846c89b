"""The evaluated images with their lesions, and a detector's boxes on them, checked before any number is computed.

Boxes are xyxy in the pixels of the archive's slices (`original_px`), as in the published evaluations. Every image
counts, also one without lesions or without detections; lesions and detections point at images by position.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.data.stored.schema import BOX, counted_lesions, counted_slices


@dataclass(frozen=True)
class Truth:
    """Evaluated images and their lesions."""

    images: tuple[str, ...]  # file names (n,), all different
    patients: np.ndarray  # (n,) int, 0 … patients - 1: whose image; the unit that the bootstrap draws
    lesion_images: np.ndarray  # (lesions,) int, position in `images`
    lesion_boxes: np.ndarray  # (lesions, 4) float64

    @property
    def patient_count(self) -> int:
        return int(self.patients.max()) + 1 if len(self.patients) else 0

    @property
    def sizes(self) -> dict[str, int]:
        return {"images": len(self.images), "lesions": len(self.lesion_images), "patients": self.patient_count}


@dataclass(frozen=True)
class Detections:
    """A detector's boxes on the images of a `Truth`, in any order."""

    images: np.ndarray  # (n,) int, position in `Truth.images`
    boxes: np.ndarray  # (n, 4) float64
    scores: np.ndarray  # (n,) float64


def counted_tables(
    index: pd.DataFrame, lesions: pd.DataFrame, detections: pd.DataFrame, noisy: Literal["keep", "drop"]
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The rows that count under `lesions.noisy`: no slices whose lesions are all dropped, and no detections on them."""
    kept = counted_slices(index, lesions, noisy)
    dropped = index.loc[~index.index.isin(kept.index), "file_name"]
    return kept, counted_lesions(lesions, noisy), detections[~detections["file_name"].isin(dropped)]


def truth_of_split(index: pd.DataFrame, lesions: pd.DataFrame, split: str) -> tuple[Truth, pd.DataFrame]:
    """Images of one split from the slice index (file_name, split, patient), their lesions, and the lesions' rows.

    A UserError where two parts hold a slice of the same name, or a lesion lies on a slice that was not stored.
    """
    index, lesions = index[index["split"] == split], lesions[lesions["split"] == split].reset_index(drop=True)
    images = pd.Index(index["file_name"])
    if (repeated := images.duplicated()).any():
        raise UserError(f"data/slices: file_name {images[repeated][0]} occurs twice; rerun the stage that made it")
    places = images.get_indexer(lesions["file_name"])
    if (places < 0).any():
        name = lesions["file_name"][int(np.argmax(places < 0))]
        raise UserError(f"data/lesions.csv: file_name {name}: not in data/slices; rerun `dvc repro preprocess`")
    patients = np.unique(index["patient"].to_numpy(), return_inverse=True)[1]
    return Truth(tuple(images), patients, places, lesions[BOX].to_numpy(dtype=np.float64)), lesions


def detections_of_split(table: pd.DataFrame, truth: Truth, split: str, path: str | Path) -> Detections:
    """The rows of one split, placed on the evaluated images; a UserError where one lies on another image."""
    rows = table[table["split"] == split]
    places = pd.Index(truth.images, dtype=str).get_indexer(rows["file_name"])
    if (places < 0).any():
        row = int(np.argmax(places < 0))
        raise UserError(
            f"{path}: line {rows.index[row] + 2}: file_name {rows['file_name'].iloc[row]!r} is no slice of split "
            f"{split}; detect and evaluate on the same slices"
        )
    return Detections(places, rows[BOX].to_numpy(dtype=np.float64), rows["score"].to_numpy(dtype=np.float64))
