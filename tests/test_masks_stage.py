"""The stage `masks` on a part of three slices: every lesion gets a mask, and a killed run does no harm."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from stage_runs import RUN_MODULE, killed_at_move

from lesionpipe.core.errors import UserError
from lesionpipe.data.masks import MaskStore
from lesionpipe.data.stored.schema import COLUMNS
from lesionpipe.data.stored.slice_writer import write_slices
from lesionpipe.masks.methods import read_methods_table, slice_tasks

SIDE = 64
STAGE = [sys.executable, "-m", "stages.masks", "01"]


def env(root: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(root)}


def lesion(number: int, file_name: str, centre: tuple[float, float], points: bool = True) -> dict:
    """A row of data/lesions.csv: diameters of 24 and 16 original px around a centre on a slice of 128 px."""
    (x, y), row = centre, dict.fromkeys(COLUMNS)
    row |= {"lesion": number, "file_name": file_name, "part": "01", "patient": 1, "study": 1, "series": 1}
    row |= {"key_slice": 1, "split": "train", "type": "liver", "noisy": 0}
    ends = (x - 12, y, x + 12, y, x, y - 8, x, y + 8)
    row |= dict(zip([c for c in COLUMNS if c.startswith("recist_")], ends, strict=True)) if points else {}
    row |= {"x1_original_px": x - 17, "y1_original_px": y - 13, "x2_original_px": x + 17, "y2_original_px": y + 13}
    row |= {"width_original_px": 128, "height_original_px": 128, "window_low_hu": -175, "window_high_hu": 275}
    return row | {"slice_first": 1, "slice_last": 9}


@pytest.fixture
def work(tmp_path: Path, root: Path) -> Path:
    """A working folder with the stage's inputs: slice 0 has two overlapping lesions, 1 none, 2 one without RECIST."""
    names = [f"000001_01_01_00{i}.png" for i in (1, 2, 3)]
    index = pd.DataFrame(
        {
            "file_name": names,
            "split": "train",
            "patient": 1,
            "width_original_px": 128,
            "height_original_px": 128,
            "scale_x": 0.5,
            "scale_y": 0.5,
            "neighbours": "exact",
        }
    )
    y, x = np.mgrid[:SIDE, :SIDE]
    hu = np.random.default_rng(0).normal(40, 8, (3, 3, SIDE, SIDE))
    hu[:, 1] += 80 * (((x - 29.75) / 6) ** 2 + ((y - 29.75) / 4) ** 2 <= 1)
    write_slices(tmp_path / "data/slices", "01", index, hu.astype(np.int16), (3, SIDE, SIDE))
    rows = [lesion(5, names[2], (60, 60), points=False), lesion(2, names[0], (60, 60)), lesion(4, names[0], (66, 60))]
    (tmp_path / "data/lesions_by_part").mkdir()
    pd.DataFrame(rows)[list(COLUMNS)].to_csv(tmp_path / "data/lesions_by_part/01.csv", index=False)
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load((root / "params.yaml").read_text(encoding="utf-8"))
    params["dataset"]["parts"] = ["01"]
    params["preprocess"]["image_size"] = SIDE
    params["runtime"]["workers"] = 1
    yaml.dump(params, tmp_path / "params.yaml")
    return tmp_path


def run_stage(work: Path, root: Path, workers: int = 1) -> dict[str, bytes]:
    """Run the stage; its outputs by name."""
    path = work / "params.yaml"
    path.write_text(path.read_text(encoding="utf-8").replace("workers: 1", f"workers: {workers}"), encoding="utf-8")
    subprocess.run(STAGE, cwd=work, check=True, capture_output=True, env=env(root))
    return {name: (work / "data/masks" / name).read_bytes() for name in ("01.npz", "01.csv")}


def test_every_lesion_has_a_mask_and_the_bytes_do_not_depend_on_workers(work: Path, root: Path) -> None:
    first = run_stage(work, root)
    table = read_methods_table(work / "data/masks/01.csv")
    assert table[["lesion", "method", "reason"]].values.tolist() == [
        [2, "grabcut", ""],
        [4, table["method"][1], table["reason"][1]],
        [5, "box-ellipse", "no RECIST points"],
    ]
    lesions, masks = MaskStore.open(work / "data/masks", ["01"]).of_slice("01", 0)
    assert lesions.tolist() == [2, 4]
    assert masks.sum(axis=(1, 2)).tolist() == table["area_px"][:2].tolist()
    assert (masks[0] & masks[1]).any()  # they overlap, and both are whole
    assert masks[0, 29, 29]
    assert abs(int(masks[0].sum()) - np.pi * 6 * 4) < 15
    assert run_stage(work, root, workers=2) == first


@pytest.mark.parametrize("move", [0, 1], ids=["before the store", "between store and table"])
def test_a_killed_run_leaves_nothing_half_and_the_next_one_gives_the_same_bytes(
    work: Path, root: Path, move: int
) -> None:
    program = killed_at_move(move) + RUN_MODULE.format(arguments=["01"], module="stages.masks")
    killed = subprocess.run([sys.executable, "-c", program], cwd=work, check=False, capture_output=True, env=env(root))
    assert killed.returncode == -signal.SIGKILL
    assert not (work / "data/masks/01.csv").exists()
    assert (work / "data/masks/01.npz").exists() == (move == 1)
    if move == 1:
        whole = (work / "data/masks/01.npz").read_bytes()
        assert run_stage(work, root)["01.npz"] == whole
    else:
        run_stage(work, root)
    assert len(read_methods_table(work / "data/masks/01.csv")) == 3


def test_labels_are_brought_to_the_stored_grid(work: Path) -> None:
    index = pd.read_csv(work / "data/slices/01.csv")
    tasks = slice_tasks("01.npy", index, pd.read_csv(work / "data/lesions_by_part/01.csv"))
    assert [task.row for task in tasks] == [0, 2]
    (number, label), _ = tasks[0].lesions
    assert number == 2
    assert label.box.tolist() == [21.25, 23.25, 38.25, 36.25]  # (43 + 0.5) / 2 - 0.5, …
    assert label.points[0].tolist() == [23.75, 29.75]
    assert label.recist_margin == (2.5, 2.5)
    assert tasks[1].lesions[0][1].points is None


@pytest.mark.parametrize(
    "content",
    [b"lesion,method\n1,grabcut\n", b"lesion,method,area_px\n1,grabcut,5\n", b"", b"\xff\xfe\x00l", b"<html>\n"],
)
def test_another_table_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "01.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"01\.csv: .*; run `dvc repro -f masks@01`") as caught:
        read_methods_table(path)
    assert "\n" not in str(caught.value)


def test_missing_inputs_are_reported_in_one_line(work: Path, root: Path) -> None:
    (work / "data/slices/01.npy").unlink()
    failed = subprocess.run(STAGE, cwd=work, check=False, capture_output=True, text=True, env=env(root))
    assert failed.returncode == 1
    assert "data/slices/01.npy: no such file; run `dvc repro preprocess@01`" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_a_part_needs_its_own_lesions_alone(work: Path, root: Path) -> None:
    """`data/lesions.csv`, which changes with every part that is added, isn't even there."""
    assert not (work / "data/lesions.csv").exists()
    text = (root / "dvc.yaml").read_text(encoding="utf-8")
    stage = YAML(typ="safe", pure=True).load(text)["stages"]["masks"]
    assert "data/lesions_by_part/${item.part}.csv" in stage["deps"]
    assert not {"data/lesions.csv", "data/slices"} & set(stage["deps"])
    assert not any(name.startswith("dataset") for name in stage["params"])


def test_a_part_without_lesions_has_an_empty_store(work: Path, root: Path) -> None:
    path = work / "data/lesions_by_part/01.csv"
    path.write_text(path.read_text(encoding="utf-8").splitlines()[0] + "\n", encoding="utf-8")
    run_stage(work, root)
    assert len(read_methods_table(work / "data/masks/01.csv")) == 0
    assert MaskStore.open(work / "data/masks", ["01"]).rows("01") == []
