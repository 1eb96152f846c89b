"""Tiny parts of DeepLesion for the tests of reading and preprocessing: zips and folders of 16-bit PNGs."""

import zipfile
from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from lesionpipe.download.reader import SliceReader, open_part
from lesionpipe.download.sources import list_folder

SERIES = "000001_01_01"


def png(hu) -> bytes:
    """A slice as DeepLesion stores it: 16-bit grey, HU + 32768."""
    return encoded((np.asarray(hu, np.int32) + 32768).astype(np.uint16))


def encoded(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def constant(hu: int, height: int = 64, width: int = 64) -> np.ndarray:
    return np.full((height, width), hu)


def write_zip(path: Path, files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    """A zip with the given members, as they are named."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def members(numbers, series: str = SERIES, top: str = "Images_png") -> dict[str, bytes]:
    """Slices n of one series, the n-th holding 10 n HU."""
    return {f"{top}/{series}/{n:03d}.png": png(constant(10 * n)) for n in numbers}


def write_folder(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def folder_reader(root: Path) -> SliceReader:
    """The reader of an extracted folder as it is now, all in part 01."""
    return open_part("folder", str(root), "01", list_folder(root, "01", ["01"]))


def key_slices(*rows: tuple[str, float], split: str = "train", width: int = 64, height: int = 64) -> pd.DataFrame:
    """The table of (file name, slice interval) as the stage `lesions` leaves it."""
    return pd.DataFrame(
        {
            "file_name": [row[0] for row in rows],
            "split": split,
            "slice_interval_mm": [row[1] for row in rows],
            "width_original_px": width,
            "height_original_px": height,
            "slice_first": 1,
            "slice_last": 99,
        }
    )
