"""From a part's zip or folder to its stored slices: values, the same bytes with any workers, and faults."""

import re
import shutil
import signal
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from ruamel.yaml import YAML
from stage_runs import link_code, run_stage
from tiny_parts import SERIES, constant, folder_reader, key_slices, members, png, write_folder, write_zip

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import checksum
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.download.inventory import write_inventory
from lesionpipe.download.reader import ZipReader
from lesionpipe.download.sources import list_archive
from lesionpipe.params import Preprocess
from lesionpipe.preprocess.part import preprocess_part, read_key_slices

SETTINGS = Preprocess(image_size=64, slices=3, spacing_mm=2.0, hu=(-1024, 1050))
OTHER = "000002_01_01"


@pytest.fixture
def part(tmp_path) -> Path:
    """A part of two series: `tmp_path`/part.zip."""
    return write_zip(tmp_path / "part.zip", members(range(1, 31)) | members(range(5, 9), OTHER))


def table(numbers=range(2, 30, 3)) -> pd.DataFrame:
    intervals = (5, 1, 2, 1.5)
    rows = [(f"{SERIES}_{n:03d}.png", intervals[i % 4]) for i, n in enumerate(numbers)]
    return key_slices(*rows, (f"{OTHER}_008.png", 5.0), (f"{OTHER}_006.png", np.nan))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_sides_that_the_annotations_do_not_know_are_those_of_the_slice(part, tmp_path):
    rows = key_slices((f"{SERIES}_010.png", 5.0), (f"{SERIES}_020.png", 5.0)).astype({"width_original_px": float})
    rows.loc[1, "width_original_px"] = np.nan
    index = preprocess_part(ZipReader(part), rows, SETTINGS, "01", tmp_path / "slices")
    assert index["width_original_px"].tolist() == [64, 64]
    assert index["scale_x"].tolist() == [1, 1]


def test_slices_and_index_of_a_part(part, tmp_path):
    """Slice n holds 10 n HU, so that a neighbour at 2 mm of interval i differs by 20 / i."""
    rows = key_slices(
        (f"{SERIES}_010.png", 5.0), (f"{SERIES}_020.png", 1.0), (f"{OTHER}_008.png", 5.0), (f"{OTHER}_006.png", np.nan)
    )
    preprocess_part(ZipReader(part), rows, SETTINGS, "01", tmp_path / "slices")
    store = SliceStore.open(tmp_path / "slices", ["01"])
    assert [store.slices(i)[:, 0, 0].tolist() for i in range(4)] == [
        [96, 100, 104],
        [180, 200, 220],
        [76, 80, 80],  # there is no slice 9
        [60, 60, 60],
    ]
    assert store.index["neighbours"].tolist() == ["interpolated", "exact", "duplicated", "unknown interval"]
    assert store.index["file_name"].tolist() == rows["file_name"].tolist()
    assert store.index["patient"].tolist() == [1, 1, 2, 2]
    assert store.index["scale_x"].tolist() == [1, 1, 1, 1]


def test_larger_slices_are_resized_and_their_scale_is_in_the_index(tmp_path):
    files = {f"Images_png/{SERIES}/{n:03d}.png": png(constant(10 * n, height=96, width=128)) for n in (1, 2, 3)}
    rows = key_slices((f"{SERIES}_002.png", 4.0), width=128, height=96)
    index = preprocess_part(ZipReader(write_zip(tmp_path / "p.zip", files)), rows, SETTINGS, "01", tmp_path / "out")
    assert np.load(tmp_path / "out" / "01.npy")[0, :, 5, 5].tolist() == [15, 20, 25]
    assert (index.at[0, "scale_x"], index.at[0, "scale_y"]) == (0.5, pytest.approx(2 / 3))


def test_bytes_depend_neither_on_workers_nor_on_the_form(part, tmp_path):
    readers = {"one": (ZipReader(part), 1), "two": (ZipReader(part), 2), "five": (ZipReader(part), 5)}
    files = members(range(1, 31)) | members(range(5, 9), OTHER)
    readers["folder"] = folder_reader(write_folder(tmp_path / "data", files)), 2
    for name, (reader, workers) in readers.items():
        preprocess_part(reader, table(), SETTINGS, "01", tmp_path / name, workers)
    first, *others = (contents(tmp_path / name) for name in readers)
    assert sorted(first) == ["01.csv", "01.npy"]
    assert all(other == first for other in others)


def test_a_neighbour_shared_by_key_slices_is_decoded_once(part, tmp_path, monkeypatch):
    decoded = []
    decode = cv2.imdecode
    monkeypatch.setattr(cv2, "imdecode", lambda *args: decoded.append(1) or decode(*args))
    rows = key_slices(*((f"{SERIES}_{n:03d}.png", 2.0) for n in (10, 11, 12)))
    preprocess_part(ZipReader(part), rows, SETTINGS, "01", tmp_path / "out", workers=1)
    assert len(decoded) == 5  # slices 9 to 13


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_a_missing_key_slice_is_named(part, tmp_path, form):
    files = write_folder(tmp_path / "data", members(range(1, 31)) | members(range(5, 9), OTHER))
    reader = ZipReader(part) if form == "zip" else folder_reader(files)
    with pytest.raises(UserError) as caught:
        preprocess_part(reader, table([*range(2, 30, 3), 77]), SETTINGS, "01", tmp_path / "out")
    missing = f"1 of 13 key slices are missing, the first is {SERIES}_077.png; run `dvc repro lesions`"
    assert str(caught.value) == f"{reader.source}: {missing}"
    assert not (tmp_path / "out").exists()


def test_a_wrong_image_size_points_to_the_table(part, tmp_path):
    """Not to the archive, which would be downloaded in vain."""
    rows = key_slices((f"{SERIES}_010.png", 5.0), width=512, height=64)
    with pytest.raises(UserError) as caught:
        preprocess_part(ZipReader(part), rows, SETTINGS, "01", tmp_path / "out")
    assert str(caught.value) == (
        f"{part}: {SERIES}_010.png is 64 x 64 px, but Image_size of its row in DL_info.csv is 512 x 64; "
        "correct the table and name it in dataset.annotations"
    )


def test_a_neighbour_of_another_size_is_named(tmp_path):
    archive = write_zip(
        tmp_path / "part.zip", members(range(1, 31)) | {f"Images_png/{SERIES}/014.png": png(constant(0, 32, 48))}
    )
    with pytest.raises(UserError) as caught:
        preprocess_part(ZipReader(archive), key_slices((f"{SERIES}_015.png", 5.0)), SETTINGS, "01", tmp_path / "out")
    sizes = f"{SERIES}_014.png is 48 x 32 px, but its key slice {SERIES}_015.png is 64 x 64 px"
    assert str(caught.value) == f"{archive}: {sizes}; are the slices whole?"


def test_a_bad_neighbour_stops_the_part_and_leaves_nothing(tmp_path):
    files = members(range(1, 31)) | {f"Images_png/{SERIES}/016.png": b"no png"}
    reader = ZipReader(write_zip(tmp_path / "part.zip", files))
    with pytest.raises(UserError, match=r"part\.zip: Images_png/000001_01_01/016\.png: "):
        preprocess_part(reader, key_slices((f"{SERIES}_015.png", 5.0)), SETTINGS, "01", tmp_path / "o", 2)
    assert contents(tmp_path / "o") == {}


def test_an_empty_part_is_written(part, tmp_path):
    preprocess_part(ZipReader(part), table()[:0], SETTINGS, "01", tmp_path / "out")
    assert np.load(tmp_path / "out" / "01.npy").shape == (0, 3, 64, 64)


def test_genuine_neighbours_are_mixed_from_what_opencv_reads(shared_data, tmp_path):
    """Series 000062_01_01 at 1.5 mm: +2 mm lies a third of the way from the next slice to the one after."""
    root = shared_data / "deeplesion_mini"
    settings = SETTINGS.model_copy(update={"image_size": 512})
    rows = key_slices(("000062_01_01_070.png", 1.5), ("000062_01_01_084.png", 1.0), width=512, height=512)
    preprocess_part(folder_reader(root), rows, settings, "01", tmp_path)
    stacks = np.load(tmp_path / "01.npy").astype(int)

    def hu(n: int) -> np.ndarray:
        path = root / "Images_png" / "000062_01_01" / f"{n:03d}.png"
        return cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(np.int64) - 32768

    below, above = (hu(68) + 2 * hu(69)) / 3, (2 * hu(71) + hu(72)) / 3
    for got, expected in zip(stacks[0], (below, hu(70), above), strict=True):
        assert np.abs(got - np.clip(expected, -1024, 1050)).max() <= 0.5
    for got, expected in zip(stacks[1], (hu(82), hu(84), hu(84)), strict=True):  # 084 is the last
        assert np.array_equal(got, np.clip(expected, -1024, 1050))


def test_a_wrong_table_of_key_slices_ends_in_one_line(tmp_path):
    with pytest.raises(UserError, match=r"01\.csv: no such file; run `dvc repro lesions`"):
        read_key_slices("01", tmp_path)
    (tmp_path / "01.csv").write_text("file_name,split\na,train\n")
    with pytest.raises(UserError, match=r"01\.csv: .*slice_interval_mm"):
        read_key_slices("01", tmp_path)
    table().replace({"width_original_px": {64: "wide"}}).to_csv(tmp_path / "01.csv", index=False)
    with pytest.raises(UserError, match=r"01\.csv: .*wide"):
        read_key_slices("01", tmp_path)


@pytest.mark.parametrize("side", ["1e+300", "512.5", "0.0"])
def test_an_impossible_image_size_is_named_as_it_stands(tmp_path, side):
    table().astype({"width_original_px": float}).replace({"width_original_px": {64: float(side)}}).to_csv(
        tmp_path / "01.csv", index=False
    )
    message = rf"01\.csv: line 2: width_original_px = {re.escape(side)}, expected a whole number of px up to 1,000,000"
    with pytest.raises(UserError, match=message):
        read_key_slices("01", tmp_path)


def test_an_empty_interval_is_unknown(tmp_path):
    table().to_csv(tmp_path / "01.csv", index=False)
    assert read_key_slices("01", tmp_path)["slice_interval_mm"].isna().tolist() == [False] * 11 + [True]


# ---- the stage, as DVC runs it


@pytest.fixture
def stage(part, root, tmp_path):
    """Run the stage on part 01 where parameters, archive, inventory and key slices lie ready."""
    params = YAML().load(root / "params.yaml")
    params["preprocess"]["image_size"] = 64
    params["runtime"]["workers"] = 2
    YAML().dump(params, tmp_path / "params.yaml")
    link_code(root, tmp_path)
    (tmp_path / "data/key_slices").mkdir(parents=True)
    (tmp_path / "data/phantom/01").mkdir(parents=True)
    table().to_csv(tmp_path / "data/key_slices/01.csv", index=False)
    write_inventory(tmp_path / "data/inventory/01.csv", list_archive(part, checksum(part)))
    part.rename(tmp_path / "data/phantom/01/Images_png_01.zip")
    return lambda before="": run_stage(tmp_path, "preprocess", "01", before=before)


KILLED_WHILE_WRITING = """
import os, signal
from lesionpipe.preprocess import part as preprocess
original, made = preprocess.build_stack, []
def build_stack(*args):
    made.append(1)
    if len(made) > 6:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*args)
preprocess.build_stack = build_stack
"""


def test_killed_in_the_middle_and_run_again_gives_the_same_bytes(stage, tmp_path):
    slices = tmp_path / "data" / "slices"
    done = stage()
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout == "part 01: 12 key slices; neighbours: 5 interpolated, 4 exact, 2 duplicated, 1 unknown interval\n"
    )
    undisturbed = contents(slices)
    shutil.rmtree(slices)
    assert stage(KILLED_WHILE_WRITING).returncode == -signal.SIGKILL
    left = sorted(contents(slices))
    assert len(left) == 1
    assert left[0].endswith(".partial")
    assert stage().returncode == 0
    assert contents(slices) == undisturbed


def test_a_damaged_archive_ends_the_stage_in_one_line(stage, tmp_path):
    archive = tmp_path / "data/phantom/01/Images_png_01.zip"
    archive.write_bytes(archive.read_bytes()[:-100])
    ended = stage()
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {archive}: not a whole zip archive")
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("seen", [True, False])
def test_a_full_disk_ends_the_stage_in_one_line_and_costs_nothing(stage, tmp_path, seen):
    slices = tmp_path / "data" / "slices"
    slices.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", slices], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        (slices / "02.npy").write_bytes(b"another part")
        unseen = "from lesionpipe.data.stored import slice_writer\nslice_writer._require_space = lambda *_: None\n"
        ended = stage("" if seen else unseen)
        assert ended.returncode == 1
        assert "no space left on the disk while writing data/slices/01.npy" in ended.stderr
        assert ended.stderr.count("\n") == 1
        assert contents(slices) == {"02.npy": b"another part"}
    finally:
        subprocess.run(["umount", "-l", slices], check=True)


def test_a_cluster_gives_the_same_bytes(part, tmp_path, cluster):
    """A real scheduler and two worker processes; only the archive is theirs to see."""
    preprocess_part(ZipReader(part), table(), SETTINGS, "01", tmp_path / "here", workers=1)
    preprocess_part(ZipReader(part), table(), SETTINGS, "01", tmp_path / "there", cluster=cluster)
    bad = write_zip(tmp_path / "bad.zip", members(range(1, 31)) | {f"Images_png/{SERIES}/005.png": b"x"})
    with pytest.raises(UserError, match=r"bad\.zip: Images_png/000001_01_01/005\.png: not a PNG file"):
        preprocess_part(ZipReader(bad), table([5])[:1], SETTINGS, "02", tmp_path / "there", cluster=cluster)
    assert contents(tmp_path / "here") == contents(tmp_path / "there")
