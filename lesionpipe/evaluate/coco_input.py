"""Anybody's detections: COCO annotations and results (`data.coco`) as the truth and the detections that are scored.

The bootstrap draws patients, so it matters whose image is whose. They come, in this order, from the field of `images`
that the user names, from the field `patient` (`lesionpipe export coco` writes it), or from file names of DeepLesion's
form; any other image is its own patient.
"""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from lesionpipe.core.errors import UserError
from lesionpipe.data.coco import CocoImage, read_coco, read_coco_results
from lesionpipe.evaluate.truth import Detections, Truth

PATIENT_FIELD = "patient"
# the whole name, 000001_01_01_109.png or …/000001_01_01/109.png; DeepLesion's 4,427 patients begin with 00, dates don't
_DEEPLESION_NAME = re.compile(r"(?:.*[/\\])?(00[0-9]{4})_[0-9]{2}_[0-9]{2}[_/\\][0-9]{3,6}\.png")


def read_truth(path: str | Path, patient_key: str | None = None) -> tuple[Truth, pd.Index]:
    """Images and lesions of a COCO ground truth, and the image ids in the order of `Truth.images`.

    Args:
        patient_key: the field of `images` that names the patient; every image must have it.

    Raises:
        UserError: see `read_coco`; a crowd region; an image without `patient_key`.
    """
    content = read_coco(path)
    for row, annotation in enumerate(content.annotations):
        if annotation.iscrowd:
            raise UserError(f"{path}: annotations[{row}].iscrowd = 1: the FROC rule knows no crowd regions; remove it")
    names = tuple(image.file_name or str(image.id) for image in content.images)
    owners = [_patient(path, row, image, patient_key) for row, image in enumerate(content.images)]
    patients = np.unique(owners, return_inverse=True)[1]
    return Truth(names, patients, content.positions, content.boxes), content.ids


def read_results(path: str | Path, ids: pd.Index) -> Detections:
    """A COCO results file on the images with these ids.

    Raises:
        UserError: see `read_coco_results`.
    """
    return Detections(*read_coco_results(path, ids))


def _patient(path: str | Path, row: int, image: CocoImage, key: str | None) -> str:
    """A name that two images share if their patient is the same; numbers sort as in the pipeline, for equal draws."""
    fields = {"id": image.id, "file_name": image.file_name, **(image.model_extra or {})}
    patient = fields.get(key or PATIENT_FIELD)
    if isinstance(patient, (int, str)) and not isinstance(patient, bool):
        return f"patient {patient:06d}" if isinstance(patient, int) else f"patient {patient}"
    if key or patient is not None:
        raise UserError(
            f"{path}: images[{row}].{key or PATIENT_FIELD} = {patient!r}: a patient is a text or a whole number; "
            f"give every image one, or name another field with --patient-key"
        )
    match = _DEEPLESION_NAME.fullmatch(image.file_name or "")
    return f"patient {match[1]}" if match else f"image {row}"
