"""A toy data set in the pipeline's own formats: bright discs on dim noise, for tests of training and detection."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML

from lesionpipe.core.devices import compilers
from lesionpipe.core.formats import write_csv, write_json
from lesionpipe.data.masks import StoredMask, write_masks
from lesionpipe.data.stored.slice_writer import write_slices
from lesionpipe.params import Params, load_params

ROOT = Path(__file__).parents[1]
SIDE = 64
needs_compiler = pytest.mark.skipif(not any(map(shutil.which, compilers("cpu"))), reason="needs a C++ compiler")
SPLITS = ["train"] * 12 + ["val"] * 5 + ["test"] * 3
NETWORK = {"backbone": "small", "channels": 8, "head_depth": 1, "head_channels": 16, "levels": "P2-P6"}
ANCHORS = {"sizes": [4, 8, 16, 32, 64], "scales": [0.7, 1.0, 1.4], "ratios": [1.0], "strides": [4, 8, 16, 32, 64]}
POINTS = [f"recist_{c}{i}_original_px" for i in (1, 2, 3, 4) for c in ("x", "y")]


def toy_params(**changes: dict) -> dict:
    """The default parameters with a tiny network, as plain values; `changes` by section."""
    values = YAML(typ="safe", pure=True).load((ROOT / "presets" / "phantom.yaml").read_text())
    values["dataset"]["parts"] = ["01"]
    values["preprocess"]["image_size"] = SIDE
    values["network"].update(NETWORK)
    values["train"].update({"epochs": 4, "batch_size": 4, "precision": "32"})
    values["detect"].update({"precision": "32"})
    values["runtime"].update({"device": "cpu", "workers": 1})
    for section, change in changes.items():
        values[section].update(change)
    return values


def write_toy_set(folder: Path, **changes: dict) -> Params:
    """Fill `folder` with params.yaml and all that the stage `train` reads: 20 slices with one disc each."""
    random = np.random.default_rng(7)
    with (folder / "params.yaml").open("w") as handle:
        YAML().dump(toy_params(**changes), handle)
    names = [f"{i:06d}_01_01_010.png" for i in range(1, len(SPLITS) + 1)]
    centres = random.integers(16, 48, (len(names), 2)).astype(float)
    radii = random.integers(4, 9, len(names)).astype(float)
    discs = np.stack([disc(*place) for place in zip(centres, radii, strict=True)])
    hu = random.normal(-200, 60, (len(names), 3, SIDE, SIDE)) + 400 * discs[:, None]
    write_slices(folder / "data/slices", "01", index(names), hu.astype(np.int16), (3, SIDE, SIDE))
    write_csv(folder / "data/lesions.csv", lesions(names, centres, radii))
    stored = [StoredMask(i + 1, i, 0, 0, mask) for i, mask in enumerate(discs)]
    write_masks(folder / "data/masks/01.npz", stored, SIDE)
    write_json(folder / "data/anchors.json", ANCHORS)
    return load_params(folder / "params.yaml")


def disc(centre: np.ndarray, radius: float) -> np.ndarray:
    y, x = np.mgrid[:SIDE, :SIDE]
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def index(names: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file_name": names,
            "split": SPLITS,
            "patient": range(1, len(names) + 1),
            "width_original_px": SIDE,
            "height_original_px": SIDE,
            "scale_x": 1.0,
            "scale_y": 1.0,
            "neighbours": "exact",
        }
    )


def lesions(names: list[str], centres: np.ndarray, radii: np.ndarray) -> pd.DataFrame:
    """One lesion a slice: RECIST points at the disc's four ends, and a box 5 px around them."""
    arms = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]])
    points = centres[:, None] + radii[:, None, None] * arms
    box = np.concatenate([points.min(1) - 5, points.max(1) + 5], axis=1)
    table = pd.DataFrame(
        {
            "lesion": range(1, len(names) + 1),
            "file_name": names,
            "part": "01",
            "patient": range(1, len(names) + 1),
            "study": 1,
            "series": 1,
            "key_slice": 10,
            "split": SPLITS,
            "type": "unknown",
            "noisy": 0,
        }
    )
    for i, name in enumerate(("x1", "y1", "x2", "y2")):
        table[f"{name}_original_px"] = box[:, i]
    for i, name in enumerate(POINTS):
        table[name] = points.reshape(-1, 8)[:, i]
    rest = {
        "long_diameter_mm": 10.0,
        "short_diameter_mm": 8.0,
        "spacing_mm": 0.8,
        "slice_interval_mm": 5.0,
        "width_original_px": SIDE,
        "height_original_px": SIDE,
        "window_low_hu": -175,
        "window_high_hu": 275,
        "slice_first": 4,
        "slice_last": 16,
    }
    return table.assign(**rest)
