"""COCO annotation and result files, read and checked entry by entry: for `lesionpipe froc` and `lesionpipe anchors`.

A COCO box x, y, width, height has the corners x, y, x + width, y + height. Categories are ignored: there is one class.
A UserError names the entry where the file isn't whole JSON, an entry has a wrong form, an id occurs twice or belongs to
no image, or a number is NaN, infinite or beyond 1e9 px or a side negative.
"""

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import read_json
from lesionpipe.data.detections import FARTHEST_PX

CocoId = int | str
Form = TypeVar("Form")
_Corner = Annotated[float, Field(ge=-FARTHEST_PX, le=FARTHEST_PX, allow_inf_nan=False)]
_Side = Annotated[float, Field(ge=0, le=FARTHEST_PX, allow_inf_nan=False)]
_ImageSide = Annotated[float, Field(ge=1, allow_inf_nan=False)]
_Box = Annotated[tuple[_Corner, _Corner, _Side, _Side], Field(strict=False)]  # a JSON list may fill a tuple


class _Entry(BaseModel, strict=True):
    pass


class CocoImage(_Entry, extra="allow"):
    """An image; fields of other names (a patient, perhaps) stay in `model_extra`."""

    id: CocoId
    file_name: str | None = None
    width: _ImageSide | None = None
    height: _ImageSide | None = None


class CocoAnnotation(_Entry):
    id: CocoId | None = None
    image_id: CocoId
    bbox: _Box
    iscrowd: Annotated[int, Field(ge=0, le=1)] = 0


class CocoResult(_Entry):
    image_id: CocoId
    bbox: _Box
    score: Annotated[float, Field(allow_inf_nan=False)]


class _Annotations(_Entry):
    images: list[CocoImage] = Field(min_length=1)
    annotations: list[CocoAnnotation]


@dataclass(frozen=True)
class CocoData:
    """An annotation file: `boxes` (n, 4) float64 xyxy and `positions` (n,) in `images` go with `annotations`."""

    images: list[CocoImage]
    ids: pd.Index
    annotations: list[CocoAnnotation]
    positions: np.ndarray
    boxes: np.ndarray


def read_coco(path: str | Path) -> CocoData:
    """Read an annotation file of at least one image, crowd regions included."""
    content = _checked(path, _Annotations)
    for field, entries in (("images", content.images), ("annotations", content.annotations)):
        ids = pd.Series([entry.id for entry in entries], dtype=object)
        if (repeated := ids.duplicated() & ids.notna()).any():
            row = int(repeated.argmax())
            raise UserError(f"{path}: {field}[{row}].id = {ids[row]!r} occurs twice; give every entry its own id")
    ids = pd.Index([image.id for image in content.images], dtype=object)
    return CocoData(content.images, ids, content.annotations, *_placed(path, "annotations", ids, content.annotations))


def read_coco_results(path: str | Path, ids: pd.Index) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A result file on the images with these ids: positions (n,) of the images, boxes (n, 4) xyxy, scores (n,)."""
    results = _checked(path, list[CocoResult])
    return *_placed(path, "", ids, results), np.array([result.score for result in results], dtype=np.float64)


def _checked(path: str | Path, form: type[Form]) -> Form:
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


def _placed(
    path: str | Path, field: str, ids: pd.Index, entries: list[CocoAnnotation] | list[CocoResult]
) -> tuple[np.ndarray, np.ndarray]:
    """Positions (n,) of the entries' images and boxes (n, 4) xyxy."""
    wanted = pd.Index([entry.image_id for entry in entries], dtype=object)
    positions = ids.get_indexer(wanted)
    if (positions < 0).any():
        row = int(np.argmax(positions < 0))
        raise UserError(f"{path}: {field}[{row}].image_id = {wanted[row]!r}: no image has this id; add or correct it")
    boxes = np.array([entry.bbox for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return positions, boxes
