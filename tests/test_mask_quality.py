"""The stage `mask_quality`: masks are compared with the true ones where there are any."""

import json
import runpy
import weakref
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from small_set import HIT, LESIONS, NAMES, NEAR, SIZE, change_params, write_small_set

from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_csv
from lesionpipe.data.masks import StoredMask, write_masks
from lesionpipe.data.stored.schema import read_lesions
from lesionpipe.mask_quality import quality
from lesionpipe.mask_quality.quality import drawn_lesions

HEADER = (
    "File_name,Patient_index,Study_index,Series_ID,Key_slice_index,Measurement_coordinates,Bounding_boxes,"
    "Lesion_diameters_Pixel_,Normalized_lesion_location,Coarse_lesion_type,Possibly_noisy,Slice_range,Spacing_mm_px_,"
    "Image_size,DICOM_windows,Patient_gender,Patient_age,Train_Val_Test"
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_small_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"lesion": [n for n, *_ in LESIONS], "method": "grabcut", "reason": "", "area_px": 100})
    write_csv("data/masks/01.csv", table)
    Path("data/phantom/01").mkdir(parents=True)
    return tmp_path


def info_row(name: str, box: tuple[int, ...]) -> str:
    """A line of DL_info.csv, whose boxes count from 1."""
    corners = ", ".join(str(value + 1) for value in box)
    return f'{name},{int(name[:6])},1,1,10,,"{corners}",,,-1,0,,,"{SIZE}, {SIZE}",,F,62,2'


def draw(*lesions: tuple[str, tuple[int, ...]]) -> None:
    """A phantom of these lesions: file name and box. All true masks are the same square, the stored one's but 6's."""
    rows = [info_row(name, box) for name, box in lesions]
    Path("data/phantom/01/DL_info.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    picture = np.zeros((SIZE, SIZE), np.uint8)
    picture[10:30, 10:30] = 255
    counts: dict[str, int] = {}
    with zipfile.ZipFile("data/phantom/01/true_masks_01.zip", "w") as archive:
        for name, _ in lesions:
            counts[name] = counts.get(name, 0) + 1
            member = f"true_masks/{Path(name).stem}_lesion{counts[name]}.png"
            archive.writestr(member, cv2.imencode(".png", picture)[1].tobytes())


def run_stage(root: Path) -> dict:
    runpy.run_path(str(root / "stages" / "mask_quality.py"))["main"]()
    assert Path("metrics/masks.png").stat().st_size > 1000
    return json.loads(Path("metrics/masks.json").read_text())


def test_a_lesion_without_a_true_mask_is_left_out_and_counted(root, folder):
    """As with annotations of one's own for the phantom: the second lesion of the last slice was never drawn."""
    draw(*[(NAMES[row], HIT) for _, row, *_ in LESIONS[:5]])
    found = run_stage(root)
    assert found["lesions"] == 6
    assert found["true_masks"]["all"]["lesions"] == 5 and found["true_masks"]["all"]["dice"] == 1
    assert found["true_masks"]["without_true_mask"] == 1


def test_where_every_lesion_has_one_nothing_is_said_of_it(root, folder):
    draw(*[(NAMES[row], NEAR if n == 6 else HIT) for n, row, *_ in LESIONS])
    found = run_stage(root)["true_masks"]
    assert found["all"]["lesions"] == 6 and "without_true_mask" not in found


def test_true_masks_are_held_part_by_part(folder, monkeypatch):
    """Of DeepLesion's 56 parts they would take 9 GB at once; those of the lesions shown are kept."""
    square, living, most = np.ones((10, 10), bool), weakref.WeakSet(), 0

    class Held(dict):
        __hash__ = object.__hash__

    def true_masks(part: str, lesions: pd.DataFrame) -> Held:
        nonlocal most
        true = Held((lesion, np.pad(square, (10 * int(part), 0))) for lesion in lesions["lesion"])
        living.add(true)
        most = max(most, len(living))
        return true

    monkeypatch.setattr(quality, "true_masks_of", true_masks)
    for n, part in enumerate(("01", "02", "03"), start=1):
        write_masks(f"data/masks/{part}.npz", [StoredMask(n, 0, 5, 5, square)], 64)
    table = pd.DataFrame({"lesion": [3, 1, 2], "part": ["03", "01", "02"], "spacing_mm": 1.0})
    agreement, kept = quality.agreement_with_true(table, shown=[2])
    assert agreement["lesion"].tolist() == [1, 2, 3]
    assert list(kept) == [2] and kept[2].shape == (30, 30)
    assert most == 1


def test_real_data_have_no_true_masks(root, folder):
    assert "true_masks" not in run_stage(root)


def test_size_groups_have_the_edges_of_the_parameters(root, folder):
    draw(*[(NAMES[row], HIT) for _, row, *_ in LESIONS[:5]])
    assert list(run_stage(root)["true_masks"]["by_size"]) == ["< 10 mm", "10-30 mm", "> 30 mm"]
    change_params(folder, "evaluate", size_edges_mm=[15])
    assert list(run_stage(root)["true_masks"]["by_size"]) == ["< 15 mm", ">= 15 mm"]


def test_a_lesion_finds_its_true_mask_by_its_box(folder):
    """Whatever the order of the rows in annotations of one's own, and though a box was cut or corrected."""
    (x1, y1, x2, y2), name = NEAR, NAMES[5]
    drawn = pd.DataFrame({"file_name": [name, name, NAMES[0]], "x1": [x1 + 2, 11, 11], "y1": [y1 + 1, 11, 11]})
    drawn = drawn.assign(x2=[x2 + 1, 30, 30], y2=[y2 + 1, 30, 30])  # from 1: NEAR, a px narrower, and HIT twice
    lesions = read_lesions()
    assert drawn_lesions(lesions, drawn) == {1: (NAMES[0], 1), 5: (name, 2), 6: (name, 1)}
    lesions.loc[lesions["lesion"] == 6, "x1_original_px"] -= 30
    assert 6 not in drawn_lesions(lesions, drawn)


def test_a_mask_of_an_unknown_lesion_is_refused_in_one_line(root, folder):
    """It was a KeyError where lesions.csv had lost its rows."""
    lesions = read_lesions()
    write_csv("data/lesions.csv", lesions[lesions["lesion"] != 4])
    with pytest.raises(UserError, match=r"lesion 4 is in data/masks/01\.csv alone; run `dvc repro -f masks@01`"):
        run_stage(root)
    write_csv("data/lesions.csv", lesions[:0])
    with pytest.raises(UserError, match=r"data/lesions\.csv: has a header and no lesion; run `dvc repro -f lesions`"):
        run_stage(root)


def test_a_table_of_methods_that_was_cut_is_refused(root, folder):
    path = Path("data/masks/01.csv")
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(UserError, match=r"lesion 6 is in data/lesions\.csv alone; run `dvc repro -f masks@01`"):
        run_stage(root)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04" + bytes(30), None], ids=["empty", "foreign", "cut"])
def test_damaged_slices_are_refused(root, folder, damage):
    path = Path("data/slices/01.npy")
    path.write_bytes(path.read_bytes()[:-100] if damage is None else damage)
    with pytest.raises(UserError, match=r"01\.npy: not a whole \.npy array"):
        run_stage(root)
