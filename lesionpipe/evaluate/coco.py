"""COCO files: anybody's detections to be scored here, and the data set and the detections for any other framework.

A box x, y, width, height has the corners x, y, x + width, y + height of this pipeline, so that `lesionpipe froc` gives
the same numbers from exported files. There sizes and coordinates are those of the archive's slices, masks are RLE,
grown from the stored to the original grid, and the end points of the two RECIST diameters are four keypoints.
"""

import math
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from pycocotools import mask as rle

from lesionpipe.core.errors import UserError
from lesionpipe.core.progress import progress
from lesionpipe.data.coco import CocoImage, read_coco
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.stored.schema import BOX, RECIST
from lesionpipe.evaluate.truth import Truth

PATIENT_FIELD = "patient"
# the whole name, 000001_01_01_109.png or …/000001_01_01/109.png; DeepLesion's 4,427 patients begin with 00, dates don't
_DEEPLESION_NAME = re.compile(r"(?:.*[/\\])?(00[0-9]{4})_[0-9]{2}_[0-9]{2}[_/\\][0-9]{3,6}\.png")
VISIBLE_KEYPOINT = 2  # COCO: labelled and visible
LESION_CATEGORY = {
    "id": 1,
    "name": "lesion",
    "supercategory": "",
    "keypoints": ["long_1", "long_2", "short_1", "short_2"],
    "skeleton": [[1, 2], [3, 4]],
}


def read_truth(path: str | Path, patient_key: str | None = None) -> tuple[Truth, pd.Index]:
    """Images and lesions of a COCO ground truth, and the image ids in the order of `Truth.images`.

    The bootstrap draws patients, so it matters whose image is whose. They come, in this order, from the field
    `patient_key` of `images`, which every image must then have, from the field `patient` (which `coco_dataset` writes),
    or from file names of DeepLesion's form; any other image is its own patient. A UserError as in `read_coco`, and for
    crowd regions.
    """
    content = read_coco(path)
    for row, annotation in enumerate(content.annotations):
        if annotation.iscrowd:
            raise UserError(f"{path}: annotations[{row}].iscrowd = 1: the FROC rule knows no crowd regions; remove it")
    names = tuple(image.file_name or str(image.id) for image in content.images)
    owners = [_patient(path, row, image, patient_key) for row, image in enumerate(content.images)]
    patients = np.unique(owners, return_inverse=True)[1]
    return Truth(names, patients, content.positions, content.boxes), content.ids


def coco_dataset(
    index: pd.DataFrame, lesions: pd.DataFrame, split: str, store: MaskStore | None, in_series_folders: bool = False
) -> dict:
    """COCO annotations of one split.

    Args:
        index: rows of the slice index; the image id is the row's label plus 1, so that ids differ between splits.
        lesions: rows of data/lesions.csv; the annotation id is the lesion's row in DL_info.csv.
        store: the masks; None leaves segmentations empty.
        in_series_folders: file names as in the archives, 000001_01_01/109.png instead of 000001_01_01_109.png.
    """
    of_slice = dict(tuple(lesions[lesions["split"] == split].groupby("file_name", sort=False)))
    chosen = index[index["split"] == split]
    images, annotations = [], []
    for row in progress(chosen.itertuples(), f"COCO {split}", total=len(chosen), unit="slices"):
        image = {
            "id": row.Index + 1,
            "file_name": archive_name(row.file_name) if in_series_folders else row.file_name,
            "width": int(row.width_original_px),
            "height": int(row.height_original_px),
            "patient": int(row.patient),
        }
        images.append(image)
        if row.file_name in of_slice:
            masks = dict(zip(*store.of_slice(row.part, row.row), strict=True)) if store else {}
            for lesion in of_slice[row.file_name].itertuples():
                annotations.append(_annotation(lesion, image, masks.get(lesion.lesion)))
    return {
        "info": {"description": f"DeepLesion, {split}"},
        "licenses": [],
        "categories": [LESION_CATEGORY],
        "images": images,
        "annotations": annotations,
    }


def coco_results(index: pd.DataFrame, found: pd.DataFrame, split: str) -> list[dict]:
    """COCO results of the detections of one split, on the image ids of `coco_dataset`."""
    rows = found[found["split"] == split]
    ids = index.index[pd.Index(index["file_name"]).get_indexer(rows["file_name"])] + 1
    boxes = rows[BOX].to_numpy(dtype=np.float64)
    boxes[:, 2:] -= boxes[:, :2]
    return [
        {"image_id": image_id, "category_id": 1, "bbox": box, "score": score}
        for image_id, box, score in zip(ids.tolist(), boxes.tolist(), rows["score"].tolist(), strict=True)
    ]


def picture(stack: np.ndarray, hu_range: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """uint8 RGB (height, width, 3) of a stack of HU (slices, S, S), `hu_range` as 0 to 255, at `size` (width, height).

    The channels are the slice before the lesion's, its own, and the one after (paper, sec. 3.1).
    """
    middle = len(stack) // 2
    three = stack[middle - 1 : middle + 2] if len(stack) > 1 else np.repeat(stack, 3, axis=0)
    low, high = hu_range
    grey = np.clip((three.astype(np.float32) - low) / (high - low), 0, 1) * 255
    resized = cv2.resize(np.ascontiguousarray(grey.transpose(1, 2, 0)), size, interpolation=cv2.INTER_LINEAR)
    return np.rint(resized).astype(np.uint8)


def archive_name(file_name: str) -> str:
    """000001_01_01/109.png, as in the archives, of 000001_01_01_109.png."""
    series, _, number = file_name.rpartition("_")
    return f"{series}/{number}"


def _annotation(lesion, image: dict, mask: np.ndarray | None) -> dict:
    """One row of data/lesions.csv; `mask` is on the grid of the stored slice."""
    x1, y1, x2, y2 = (float(getattr(lesion, name)) for name in BOX)
    points = np.reshape([getattr(lesion, name) for name in RECIST], (4, 2))
    known = bool(np.isfinite(points).all())
    area, segmentation = (x2 - x1) * (y2 - y1), []
    if mask is not None:
        size = image["width"], image["height"]
        smooth = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)  # centres as in `stack`
        grown = np.asfortranarray(smooth >= 0.5, dtype=np.uint8)
        encoded = rle.encode(grown)
        area = float(grown.sum())
        segmentation = {"size": list(map(int, encoded["size"])), "counts": encoded["counts"].decode("ascii")}
    return {
        "id": int(lesion.lesion),
        "image_id": image["id"],
        "category_id": 1,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": area,
        "segmentation": segmentation,
        "iscrowd": 0,
        "keypoints": [value for x, y in points.tolist() for value in (x, y, VISIBLE_KEYPOINT)] if known else [0] * 12,
        "num_keypoints": 4 if known else 0,
        "type": lesion.type,
        "long_diameter_mm": None if math.isnan(lesion.long_diameter_mm) else lesion.long_diameter_mm,
        "short_diameter_mm": None if math.isnan(lesion.short_diameter_mm) else lesion.short_diameter_mm,
    }


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
