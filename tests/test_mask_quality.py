"""The stage `mask_sheet`: masks are compared with the true ones where there are any."""

import json
import runpy
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from small_set import LESIONS, NAMES, SIZE, write_small_set

from lesionpipe.core.formats import write_csv


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"lesion": [n for n, *_ in LESIONS], "method": "grabcut", "reason": "", "area_px": 100})
    write_csv("data/masks/01.csv", table)
    write_csv("data/raw/DL_info.csv", pd.DataFrame({"File_name": [NAMES[row] for _, row, *_ in LESIONS]}))
    return tmp_path


def write_true_masks(members: list[str]) -> None:
    """The same square for each, which the small set's masks meet (all but lesion 6's)."""
    picture = np.zeros((SIZE, SIZE), np.uint8)
    picture[10:30, 10:30] = 255
    Path("data/true_masks").mkdir()
    with zipfile.ZipFile("data/true_masks/01.zip", "w") as archive:
        for member in members:
            archive.writestr(f"true_masks/{member}.png", cv2.imencode(".png", picture)[1].tobytes())


def sheet(root: Path) -> dict:
    runpy.run_path(str(root / "stages" / "mask_sheet.py"))["main"]()
    assert Path("metrics/masks.png").stat().st_size > 1000
    return json.loads(Path("metrics/masks.json").read_text())


def test_a_lesion_without_a_true_mask_is_left_out_and_counted(root, folder):
    """As with annotations of one's own for the phantom: the second lesion of the last slice was never drawn."""
    write_true_masks([f"{Path(NAMES[row]).stem}_lesion1" for _, row, *_ in LESIONS[:5]])
    found = sheet(root)
    assert found["lesions"] == 6
    assert found["true_masks"]["all"]["lesions"] == 5 and found["true_masks"]["all"]["dice"] == 1
    assert found["true_masks"]["without_true_mask"] == 1


def test_where_every_lesion_has_one_nothing_is_said_of_it(root, folder):
    write_true_masks([f"{Path(NAMES[row]).stem}_lesion{1 + (n == 6)}" for n, row, *_ in LESIONS])
    found = sheet(root)["true_masks"]
    assert found["all"]["lesions"] == 6 and "without_true_mask" not in found


def test_without_any_true_mask_there_is_no_comparison(root, folder):
    write_true_masks([])
    assert "true_masks" not in sheet(root)
