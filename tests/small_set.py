"""A tiny evaluated set in the pipeline's own files, whose numbers a person can count."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from lesionpipe.core.formats import write_csv
from lesionpipe.data.detections import read_detections
from lesionpipe.data.masks import StoredMask, write_masks
from lesionpipe.data.stored.schema import BOX, COLUMNS, RECIST
from lesionpipe.data.stored.slice_writer import write_slices

SIDE = 32  # px of the stored slices
SIZE = 64  # px of the archive's
NAMES = [f"{patient:06d}_01_01_010.png" for patient in range(1, 7)]
SPLITS = ["train", "train", "val", "val", "test", "test"]
# lesion, slice, type, long diameter in mm, slice interval in mm; one more on the last test slice than elsewhere
LESIONS = [
    (1, 0, "unknown", 20, 5),
    (2, 2, "liver", 5, 1),
    (3, 3, "lung", 10, 5),
    (4, 4, "lung", 30, 5),
    (5, 5, "bone", 31, None),
    (6, 5, "lung", None, 1),
]
HIT, NEAR, MISS = (10, 10, 29, 29), (34, 34, 53, 53), (0, 40, 9, 49)
# On test: false, hit of 4, hit of 5, false, lesion 6 is never found. On val: hit of 2; nothing on the other slice.
FOUND = [
    ("val", 2, HIT, 0.8),
    ("test", 4, MISS, 0.9),
    ("test", 4, HIT, 0.7),
    ("test", 5, HIT, 0.6),
    ("test", 5, MISS, 0.5),
]


def write_small_set(folder: Path, found: list[tuple] = FOUND) -> None:
    """params.yaml, slices, lesions, masks and detections of two slices a split."""
    shutil.copy(Path(__file__).parents[1] / "params.yaml", folder)
    change_params(folder, "dataset", source="phantom", parts=["01"])
    change_params(folder, "lesions", noisy="keep")
    change_params(folder, "detect", splits=["val", "test"])
    change_params(folder, "evaluate", bootstrap=20, iou=0.5, fp_rates=[0.5, 1, 2, 4, 8, 16], size_edges_mm=[10, 30])
    index = pd.DataFrame(
        {
            "row": range(6),
            "file_name": NAMES,
            "split": SPLITS,
            "patient": range(1, 7),
            "width_original_px": SIZE,
            "height_original_px": SIZE,
            "scale_x": 0.5,
            "scale_y": 0.5,
            "neighbours": "exact",
        }
    )
    write_slices(folder / "data/slices", "01", index, np.zeros((6, 3, SIDE, SIDE), np.int16), (3, SIDE, SIDE))
    write_csv(folder / "data/lesions.csv", pd.DataFrame([_lesion(*row) for row in LESIONS])[COLUMNS])
    square = np.ones((10, 10), bool)
    masks = [StoredMask(n, row, *(17, 17) if n == 6 else (5, 5), square) for n, row, *_ in LESIONS]
    write_masks(folder / "data/masks/01.npz", masks, SIDE)
    np.savez(folder / "data/heatmaps.npz", file_name=np.zeros(0, "U1"), heatmap=np.zeros((0, 8, 8), np.uint8))
    write_found(folder / "data/detections.csv", found)


def change_params(folder: Path, section: str, **values: object) -> None:
    """Set parameters of one section in `folder`/params.yaml."""
    yaml = YAML(typ="safe")
    params = yaml.load((folder / "params.yaml").read_text(encoding="utf-8"))
    params[section] |= values
    with (folder / "params.yaml").open("w", encoding="utf-8") as handle:
        yaml.dump(params, handle)


def write_found(path: Path, found: list[tuple]) -> None:
    rows = [(split, NAMES[i], *box, score) for split, i, box, score in found]
    write_csv(path, pd.DataFrame(rows, columns=["split", "file_name", *BOX, "score"]))
    assert len(read_detections(path)) == len(found)


def _lesion(lesion: int, row: int, kind: str, diameter: float | None, interval: float | None) -> dict:
    box = NEAR if lesion == 6 else HIT
    points = [10, 20, 29, 20, 20, 12, 20, 27] if lesion != 6 else [None] * 8
    return (
        dict.fromkeys(COLUMNS)
        | dict(zip(BOX, box, strict=True))
        | dict(zip(RECIST, points, strict=True))
        | {
            "lesion": lesion,
            "file_name": NAMES[row],
            "part": "01",
            "patient": row + 1,
            "study": 1,
            "series": 1,
            "key_slice": 10,
            "split": SPLITS[row],
            "type": kind,
            "noisy": int(lesion == 5),
            "long_diameter_mm": diameter,
            "slice_interval_mm": interval,
            "width_original_px": SIZE,
            "height_original_px": SIZE,
        }
    )
