"""Boxes for the anchor search out of somebody's annotation file: a DL_info.csv or a COCO annotation file (*.json).

Only this command guesses where an image's size isn't known (`USUAL_SIDES_PX`): the pipeline reads it from the slices.
"""

from pathlib import Path

import numpy as np

from lesionpipe.anchors.grid import HALF_PIXEL
from lesionpipe.core.boxes import clip
from lesionpipe.core.errors import UserError
from lesionpipe.data.coco import read_coco
from lesionpipe.data.stored.schema import SPLITS
from lesionpipe.lesions.dl_info import read_dl_info

USUAL_SIDES_PX = (512, 768, 1024)  # of DeepLesion's slices; without an Image_size, the first that holds the box
LARGEST_SIDE_PX = 1e6  # beyond any image; areas in float32 stay finite


def read_boxes(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) xyxy px, counted from the centre of the first pixel, and their images' width and height (n, 2).

    A COCO file is one split by itself, so `split` chooses in a DL_info.csv only. Boxes are cut to their image.

    Raises:
        UserError: the file is missing or not what it should be, a box is no box, or the split has none.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a DL_info.csv or a COCO annotation file (*.json)")
    boxes, images, places = _of_coco(path) if path.suffix.lower() == ".json" else _of_dl_info(path, split)
    large = (images > LARGEST_SIDE_PX).any(axis=1)
    if large.any():
        raise UserError(f"{path}: {places[int(large.argmax())]}: its image has over a million px a side; correct it")
    cut = clip(boxes + HALF_PIXEL, images[:, :1], images[:, 1:]) - HALF_PIXEL
    bad = ~(cut[:, 2:] > cut[:, :2]).all(axis=1)  # NaN is never greater
    if bad.any():
        first = int(bad.argmax())
        raise UserError(f"{path}: {places[first]}: not a box with an extent inside its image; correct or remove it")
    return cut, images


def _of_dl_info(path: Path, split: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
    table = read_dl_info(path)
    table = table[table["split"] == SPLITS.index(split) + 1]
    if table.empty:
        raise UserError(f"{path}: no lesion with Train_Val_Test = {SPLITS.index(split) + 1}; choose another --split")
    boxes = table[["x1", "y1", "x2", "y2"]].to_numpy(float)
    images = table[["width_original_px", "height_original_px"]].to_numpy(float)
    usual = np.array(USUAL_SIDES_PX)
    sides = usual[np.clip(np.searchsorted(usual, boxes[:, 2:].max(axis=1)), 0, len(usual) - 1)]
    images = np.where(np.isnan(images), sides[:, None], images)
    places = [f"row {row}: Bounding_boxes = {_listed(box)}" for row, box in zip(table["lesion"], boxes, strict=True)]
    return boxes - 1, images, places


def _of_coco(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Corners x, y, x + w, y + h count from the edge of the first pixel; ours from its centre, half a pixel less."""
    content = read_coco(path)
    for row, image in enumerate(content.images):
        if image.width is None or image.height is None:
            raise UserError(f"{path}: images[{row}] (id {image.id!r}) lacks its width or height in px; add it")
    rows = [row for row, annotation in enumerate(content.annotations) if not annotation.iscrowd]
    if not rows:
        raise UserError(f"{path}: 'annotations' holds no box (crowd regions don't count); nothing to search for")
    sizes = np.array([(image.width, image.height) for image in content.images], dtype=np.float64)
    places = [f"annotations[{row}].bbox = {_listed(content.annotations[row].bbox)}" for row in rows]
    return content.boxes[rows] - HALF_PIXEL, sizes[content.positions[rows]], places


def _listed(values) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
