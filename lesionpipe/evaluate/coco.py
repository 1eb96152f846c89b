"""Anybody's detections: COCO annotations and COCO results in, checked entry by entry.

A COCO box x, y, width, height has the corners x, y, x + width, y + height. Categories are ignored: there is one class.
"""

import re
import reprlib
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import read_json
from lesionpipe.data.detections import FARTHEST_PX
from lesionpipe.evaluate.truth import Detections, Truth

PATIENT = re.compile(r"(?:^|[/\\])([0-9]{6})_")  # 000001_01_01_109.png, 000001_01_01/109.png: patient 1

Id = int | str
Finite = Annotated[float, Field(allow_inf_nan=False)]
Place = Annotated[float, Field(ge=-FARTHEST_PX, le=FARTHEST_PX, allow_inf_nan=False)]
Length = Annotated[float, Field(ge=0, le=FARTHEST_PX, allow_inf_nan=False)]
Box = Annotated[tuple[Place, Place, Length, Length], Field(strict=False)]  # a JSON list may fill a tuple


class Entry(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)


class Image(Entry):
    id: Id
    file_name: str | None = None


class Annotation(Entry):
    id: Id
    image_id: Id
    bbox: Box
    iscrowd: Annotated[int, Field(ge=0, le=0)] = 0  # a region to be ignored has no place in the rule


class GroundTruth(Entry):
    images: list[Image] = Field(min_length=1)
    annotations: list[Annotation]


class Result(Entry):
    image_id: Id
    bbox: Box
    score: Finite


Checked = TypeVar("Checked")


def read_truth(path: str | Path) -> tuple[Truth, pd.Index]:
    """Images and lesions of a COCO ground truth, and the image ids in the order of `Truth.images`.

    Patients come from file names of DeepLesion's form; any other image is its own patient.

    Raises:
        UserError: not whole JSON, no image, an entry of the wrong form, an id that occurs twice, a crowd region, a box
            with NaN, infinite or negative sides or beyond 1e9 px, or a lesion on an unknown image; the entry is named.
    """
    content = _checked(path, GroundTruth)
    ids = pd.Index([image.id for image in content.images], dtype=object)
    _refuse_repeated(path, "images", ids)
    _refuse_repeated(path, "annotations", pd.Index([lesion.id for lesion in content.annotations], dtype=object))
    names = [image.file_name or str(image.id) for image in content.images]
    places = _places(path, "annotations", ids, [lesion.image_id for lesion in content.annotations])
    return Truth(tuple(names), _patients(content.images), places, _corners(content.annotations)), ids


def read_results(path: str | Path, ids: pd.Index) -> Detections:
    """A COCO results file on the images with these ids.

    Raises:
        UserError: not whole JSON, an entry of the wrong form, a NaN or infinite number, a negative side, or a detection
            on an unknown image; the entry is named.
    """
    results = _checked(path, list[Result])
    places = _places(path, "", ids, [result.image_id for result in results])
    return Detections(places, _corners(results), np.array([result.score for result in results], dtype=np.float64))


def _checked(path: str | Path, form: type[Checked]) -> Checked:
    try:
        return TypeAdapter(form).validate_python(read_json(path))
    except ValidationError as error:
        errors = error.errors(include_url=False)
        first, places = errors[0], {_place(each["loc"]) for each in errors}
        value = "" if isinstance(first["input"], (dict, list)) else f" = {reprlib.repr(first['input'])}"
        message = f"{path}: {_place(first['loc'])}{value}: {first['msg'][0].lower()}{first['msg'][1:]}"
        more = f" (and {len(places) - 1} more)" if len(places) > 1 else ""
        raise UserError(message + more) from None


def _place(location: tuple) -> str:
    """annotations[3].bbox[2] from ("annotations", 3, "bbox", 2); an id's two possible types are no part of it."""
    named = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part not in ("int", "str"))
    return "".join(named).lstrip(".") or "the whole file"


def _refuse_repeated(path: str | Path, field: str, ids: pd.Index) -> None:
    if (repeated := ids.duplicated()).any():
        row = int(np.argmax(repeated))
        raise UserError(f"{path}: {field}[{row}].id = {ids[row]!r} occurs twice; give every entry its own id")


def _places(path: str | Path, field: str, ids: pd.Index, wanted: list[Id]) -> np.ndarray:
    places = ids.get_indexer(pd.Index(wanted, dtype=object))
    if (places < 0).any():
        row = int(np.argmax(places < 0))
        raise UserError(f"{path}: {field}[{row}].image_id = {wanted[row]!r}: no image of the ground truth has this id")
    return places


def _patients(images: list[Image]) -> np.ndarray:
    found = [PATIENT.search(image.file_name or "") for image in images]
    owners = [f"patient {match[1]}" if match else f"image {i}" for i, match in enumerate(found)]
    return np.unique(owners, return_inverse=True)[1]


def _corners(entries: list[Annotation] | list[Result]) -> np.ndarray:
    boxes = np.array([entry.bbox for entry in entries], dtype=np.float64).reshape(-1, 4)
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
