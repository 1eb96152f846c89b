"""Boxes for the anchor search out of somebody's annotation file: a DL_info.csv or a COCO annotation file (*.json)."""

import math
from pathlib import Path

import numpy as np

from lesionpipe.anchors.grid import HALF_PIXEL
from lesionpipe.core.boxes import clip
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import read_json
from lesionpipe.data.schema import SPLITS
from lesionpipe.lesions.dl_info import read_dl_info

SIDES = (512, 768, 1024)  # px, of DeepLesion's slices; where Image_size is empty, the first that holds the box
LARGEST = 1e6  # px, beyond any image; areas in float32 stay finite


def read_boxes(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) xyxy px, counted from the centre of the first pixel, and their images' width and height (n, 2).

    A COCO file is one split by itself, so `split` chooses in a DL_info.csv only. Boxes are cut to their image.

    Raises:
        UserError: the file is missing or not what it should be, a box is no box, or the split has none.
    """
    boxes, images, places = _coco(path) if path.suffix.lower() == ".json" else _dl_info(path, split)
    large = (images > LARGEST).any(axis=1)
    if large.any():
        raise UserError(f"{path}: {places[int(large.argmax())]}: its image has over a million px a side; correct it")
    cut = clip(boxes + HALF_PIXEL, images[:, :1], images[:, 1:]) - HALF_PIXEL
    bad = ~(cut[:, 2:] > cut[:, :2]).all(axis=1)  # NaN is never greater
    if bad.any():
        first = int(bad.argmax())
        raise UserError(f"{path}: {places[first]}: not a box with an extent inside its image; correct or remove it")
    return cut, images


def _dl_info(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    table = read_dl_info(path)
    table = table[table["split"] == SPLITS.index(split) + 1]
    if table.empty:
        raise UserError(f"{path}: no lesion with Train_Val_Test = {SPLITS.index(split) + 1}; choose another --split")
    boxes = table[["x1", "y1", "x2", "y2"]].to_numpy(float)
    images = table[["width_original_px", "height_original_px"]].to_numpy(float)
    sides = np.array(SIDES)[np.clip(np.searchsorted(SIDES, boxes[:, 2:].max(axis=1)), 0, len(SIDES) - 1)]
    images = np.where(np.isnan(images), sides[:, None], images)
    places = [f"row {row}: Bounding_boxes = {_list(box)}" for row, box in zip(table["lesion"], boxes, strict=True)]
    return boxes - 1, images, places


def _coco(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Corners x, y, x + w, y + h count from the edge of the first pixel; ours from its centre, half a pixel less."""
    content = read_json(path)
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise UserError(f"{path}: lacks the lists 'images' and 'annotations'; a COCO annotation file is expected")
    sizes = dict(_size(path, row, image) for row, image in enumerate(content["images"]))
    kept = [(row, a) for row, a in enumerate(content["annotations"]) if not (isinstance(a, dict) and a.get("iscrowd"))]
    if not kept:
        raise UserError(f"{path}: 'annotations' holds no box (crowd regions don't count); nothing to search for")
    boxes = np.array([_bbox(path, row, annotation) for row, annotation in kept])
    images = np.array([_image_of(path, row, annotation, sizes) for row, annotation in kept])
    places = [f"annotations[{row}]: bbox = {_list(box)}" for (row, _), box in zip(kept, boxes, strict=True)]
    boxes[:, 2:] += boxes[:, :2]
    return boxes - HALF_PIXEL, images, places


def _size(path: Path, row: int, image: object) -> tuple[object, tuple[float, float]]:
    try:
        size = float(image["width"]), float(image["height"])
        if min(size) >= 1 and all(map(math.isfinite, size)) and isinstance(image["id"], int | float | str):
            return image["id"], size
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise UserError(f"{path}: images[{row}]: needs an id and a width and height of at least 1 px; not {image}")


def _bbox(path: Path, row: int, annotation: object) -> list[float]:
    try:
        box = [float(value) for value in annotation["bbox"]]
        if isinstance(annotation["bbox"], list) and len(box) == 4 and all(map(math.isfinite, box)):
            return box
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    given = annotation.get("bbox") if isinstance(annotation, dict) else annotation
    raise UserError(f"{path}: annotations[{row}]: bbox = {given} must be four numbers x, y, width, height")


def _image_of(path: Path, row: int, annotation: dict, sizes: dict) -> tuple[float, float]:
    image = annotation.get("image_id")
    if not isinstance(image, int | float | str) or image not in sizes:
        raise UserError(f"{path}: annotations[{row}]: image_id = {image!r} is not among 'images'; add or correct it")
    return sizes[image]


def _list(values) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
