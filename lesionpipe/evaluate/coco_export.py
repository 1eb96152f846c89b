"""The data set and the detections as COCO files: any detection framework can train on them and be compared.

Sizes and coordinates are those of the archive's slices. A box x, y, width, height has the corners x, y, x + width,
y + height of this pipeline, so that `lesionpipe froc` gives the same numbers from the files. Masks are RLE, grown from
the stored to the original grid; the end points of the two RECIST diameters are four keypoints. A `picture` has three
channels: the slice before the lesion's, its own, and the one after (paper, sec. 3.1).
"""

from collections.abc import Iterator

import cv2
import numpy as np
import pandas as pd
from pycocotools import mask as rle

from lesionpipe.core.progress import progress
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.stored.schema import BOX, RECIST

VISIBLE_KEYPOINT = 2  # COCO: labelled and visible
LESION_CATEGORY = {
    "id": 1,
    "name": "lesion",
    "supercategory": "",
    "keypoints": ["long_1", "long_2", "short_1", "short_2"],
    "skeleton": [[1, 2], [3, 4]],
}


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
    chosen = index[index["split"] == split]
    of_slice = dict(tuple(lesions[lesions["split"] == split].groupby("file_name", sort=False)))
    annotations = []
    for image in progress(chosen.itertuples(), f"COCO {split}", total=len(chosen), unit="slices"):
        rows = of_slice.get(image.file_name)
        if rows is not None:
            masks = _masks(store, image) if store else {}
            annotations += _annotations(rows, image.Index + 1, masks)
    return {
        "info": {"description": f"DeepLesion, {split}"},
        "licenses": [],
        "categories": [LESION_CATEGORY],
        "images": [_image(row, in_series_folders) for row in chosen.itertuples()],
        "annotations": annotations,
    }


def coco_results(index: pd.DataFrame, found: pd.DataFrame, split: str) -> list[dict]:
    """COCO results of the detections of one split, on the image ids of `coco_dataset`."""
    rows = found[found["split"] == split]
    labels = index.index[pd.Index(index["file_name"]).get_indexer(rows["file_name"])]
    boxes = _xywh(rows[BOX].to_numpy(dtype=np.float64))
    return [
        {"image_id": int(label) + 1, "category_id": 1, "bbox": box, "score": score}
        for label, box, score in zip(labels, boxes.tolist(), rows["score"].tolist(), strict=True)
    ]


def picture(stack: np.ndarray, hu_range: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """uint8 RGB (height, width, 3) of a stack of HU (slices, S, S): the three middle slices, `hu_range` as 0 to 255.

    Args:
        size: width and height in px of the archive's slice, to which the stored slices are resized.
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


def _image(row, in_series_folders: bool) -> dict:
    return {
        "id": row.Index + 1,
        "file_name": archive_name(row.file_name) if in_series_folders else row.file_name,
        "width": int(row.width_original_px),
        "height": int(row.height_original_px),
        "patient": int(row.patient),
    }


def _annotations(rows: pd.DataFrame, image_id: int, masks: dict[int, np.ndarray]) -> Iterator[dict]:
    boxes = _xywh(rows[BOX].to_numpy(dtype=np.float64)).tolist()
    for lesion, box, points in zip(rows.itertuples(), boxes, rows[RECIST].to_numpy(dtype=np.float64), strict=True):
        mask = masks.get(lesion.lesion)
        known = bool(np.isfinite(points).all())
        keypoints = [value for x, y in points.reshape(4, 2).tolist() for value in (x, y, VISIBLE_KEYPOINT)]
        yield {
            "id": int(lesion.lesion),
            "image_id": image_id,
            "category_id": 1,
            "bbox": box,
            "area": box[2] * box[3] if mask is None else float(mask.sum()),
            "segmentation": [] if mask is None else _encode(mask),
            "iscrowd": 0,
            "keypoints": keypoints if known else [0] * 12,
            "num_keypoints": 4 if known else 0,
            "type": lesion.type,
            "long_diameter_mm": _known(lesion.long_diameter_mm),
            "short_diameter_mm": _known(lesion.short_diameter_mm),
        }


def _masks(store: MaskStore, image) -> dict[int, np.ndarray]:
    """Masks of a slice by lesion, grown to the archive's grid: (height, width) uint8."""
    lesions, masks = store.of_slice(image.part, image.row)
    size = (int(image.width_original_px), int(image.height_original_px))
    return {int(lesion): _grown(mask, size) for lesion, mask in zip(lesions, masks, strict=True)}


def _grown(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    smooth = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_LINEAR)  # pixel centres as in `stack`
    return (smooth >= 0.5).astype(np.uint8)


def _encode(mask: np.ndarray) -> dict:
    encoded = rle.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
