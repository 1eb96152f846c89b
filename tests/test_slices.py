"""The store: what is written is read back, lazily and by other processes; what doesn't go together is refused."""

import errno
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lesionpipe.core.errors import UserError
from lesionpipe.data.stored.schema import counted_lesions
from lesionpipe.data.stored.slice_writer import write_slices
from lesionpipe.data.stored.slices import IMAGE_SIZE, SliceStore, read_slice_index, with_image_sizes

SHAPE = (3, 4, 4)


def index_of(n: int, patient: int = 1) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "file_name": [f"{patient:06d}_01_01_{i + 1:03d}.png" for i in range(n)],
            "split": (["train", "val", "test"] * n)[:n],
            "patient": patient,
            "width_original_px": 512,
            "height_original_px": 768,
            "scale_x": 4 / 512,
            "scale_y": 4 / 768,
            "neighbours": "exact",
        }
    )


def stacks_of(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n * 48, dtype=np.int16).reshape(n, *SHAPE)


@pytest.fixture
def folder(tmp_path) -> Path:
    write_slices(tmp_path, "01", index_of(3), stacks_of(3), SHAPE)
    write_slices(tmp_path, "02", index_of(2, patient=2), iter(stacks_of(2, 1000)), SHAPE)
    return tmp_path


def test_rows_come_back_in_the_order_of_the_index(folder):
    store = SliceStore.open(folder, ["01", "02"])
    assert len(store) == 5
    assert store.index["part"].tolist() == ["01", "01", "01", "02", "02"]
    assert store.index["row"].tolist() == [0, 1, 2, 0, 1]
    assert [int(store.slices(i)[0, 0, 0]) for i in range(5)] == [0, 48, 96, 1000, 1048]
    assert store.slices(4).shape == SHAPE
    assert store.index.at[4, "file_name"] == "000002_01_01_002.png"
    assert store.index.at[0, "scale_y"] == pytest.approx(4 / 768, rel=1e-8)


def test_the_file_is_a_plain_npy(folder):
    assert np.array_equal(np.load(folder / "01.npy"), stacks_of(3))
    assert np.load(folder / "01.npy").dtype == np.int16


def test_slices_are_mapped_and_read_only(folder):
    row = SliceStore.open(folder, ["01"]).slices(0)
    assert isinstance(row, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        row[0, 0, 0] = 1


def test_select_keeps_splits_and_their_data(folder):
    chosen = SliceStore.open(folder, ["02", "01"]).select(["val"])
    assert chosen.index["file_name"].tolist() == ["000002_01_01_002.png", "000001_01_01_002.png"]
    assert [int(chosen.slices(i)[0, 0, 0]) for i in range(2)] == [1048, 48]
    assert len(chosen.select(["test"])) == 0


def test_pickling_carries_no_data(folder):
    store = SliceStore.open(folder, ["01", "02"])
    store.slices(0)
    small = pickle.dumps(store)
    assert len(small) < 6000
    assert np.array_equal(pickle.loads(small).slices(2), stacks_of(3)[2])


def test_an_empty_part_is_a_part(tmp_path):
    write_slices(tmp_path, "01", index_of(0), [], SHAPE)
    assert len(SliceStore.open(tmp_path, ["01"])) == 0


def test_a_missing_part_says_which_stage_makes_it(folder):
    with pytest.raises(UserError, match=r"03\.csv: no such file; run `dvc repro preprocess@03`"):
        SliceStore.open(folder, ["01", "03"])
    (folder / "02.npy").unlink()
    with pytest.raises(UserError, match=r"02\.npy: no such file"):
        SliceStore.open(folder, ["02"])


def test_index_and_array_of_different_runs_are_refused(folder):
    write_slices(folder / "other", "01", index_of(2), stacks_of(2), SHAPE)
    (folder / "other" / "01.npy").replace(folder / "01.npy")
    with pytest.raises(UserError, match=r"01\.csv: 3 rows, but 01\.npy has 2"):
        SliceStore.open(folder, ["01"])


def test_a_missing_column_is_named(folder):
    pd.read_csv(folder / "01.csv").drop(columns="scale_x").to_csv(folder / "01.csv", index=False)
    with pytest.raises(UserError, match="column scale_x is missing"):
        SliceStore.open(folder, ["01"])


def test_too_few_or_misshapen_stacks_leave_the_old_files_alone(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="1 stacks for an index of 3 rows"):
        write_slices(folder, "01", index_of(3), stacks_of(1), SHAPE)
    with pytest.raises(ValueError, match="expected int16"):
        write_slices(folder, "01", index_of(3), stacks_of(3)[:, :2], SHAPE)
    with pytest.raises(ValueError, match="expected int16"):
        write_slices(folder, "01", index_of(3), stacks_of(3).astype(np.int32), SHAPE)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_leftover_of_a_killed_run_is_removed(folder):
    killed = "import os, sys\nfrom lesionpipe.core.files import atomic_path\n"
    killed += "with atomic_path(sys.argv[1]) as path:\n    path.write_bytes(b'half')\n    os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", killed, str(folder / "01.npy")])
    assert len(list(folder.glob(".01.npy.*.partial"))) == 1
    write_slices(folder, "02", index_of(1), stacks_of(1), SHAPE)
    assert len(list(folder.glob(".01.npy.*.partial"))) == 1  # another part's may be in use
    write_slices(folder, "01", index_of(1), stacks_of(1), SHAPE)
    assert not list(folder.glob(".*.partial"))


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_full_disk_is_an_error_with_a_name_and_costs_nothing(small_disk, monkeypatch, asked_before):
    write_slices(small_disk, "01", index_of(3), stacks_of(3), SHAPE)
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    if not asked_before:  # as when another job fills the disk meanwhile, or a quota does
        monkeypatch.setattr("lesionpipe.data.stored.slice_writer._require_space", lambda *_: None)
    made = []
    rows = (made.append(i) or np.zeros((3, 128, 128), np.int16) for i in range(40))
    with pytest.raises(OSError, match=r"01\.npy") as caught:
        write_slices(small_disk, "01", index_of(40), rows, (3, 128, 128))
    assert caught.value.errno == errno.ENOSPC
    assert bool(made) != asked_before
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before


# ---- files that are damaged or half copied


def cell(path: Path, line: int, column: int, value: str) -> None:
    """Overwrite one field of a CSV file; line 1 is the header."""
    lines = [text.split(",") for text in path.read_text().splitlines()]
    lines[line - 1][column] = value
    path.write_text("\n".join(map(",".join, lines)) + "\n")


def npz_named_npy(path: Path) -> None:
    with path.open("wb") as handle:
        np.savez(handle, stacks_of(3))


def pickled_npy(path: Path) -> None:
    np.save(path, np.array([{}, []], dtype=object), allow_pickle=True)


ARRAYS = {
    "empty": lambda path: path.write_bytes(b""),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:20]),
    "cut in its data": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "random bytes": lambda path: path.write_bytes(b"\x93NUMPY\x01\x00" + bytes(range(200))),
    "an npz archive": npz_named_npy,
    "cut npz archive": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(30)),
    "a pickle": pickled_npy,
}


@pytest.mark.parametrize("damage", ARRAYS.values(), ids=ARRAYS.keys())
def test_a_damaged_array_ends_in_one_line(folder, damage):
    damage(folder / "01.npy")
    with pytest.raises(UserError) as caught:
        SliceStore.open(folder, ["01"])
    assert "01.npy: not a whole .npy array" in str(caught.value)
    assert str(caught.value).endswith("run `dvc repro -f preprocess@01`") and "\n" not in str(caught.value)


def test_slices_that_are_not_square_are_refused(folder):
    np.save(folder / "01.npy", np.zeros((3, 3, 4, 8), np.int16))
    with pytest.raises(UserError, match=r"01\.npy: int16 \(3, 3, 4, 8\), expected int16 \(n, slices, side, side\)"):
        SliceStore.open(folder, ["01"])


INDICES = {
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "not UTF-8": (lambda path: path.write_bytes(b"row,\xff\n"), "not UTF-8 text at byte 4"),
    "a row that is no number": (lambda path: cell(path, 3, 0, "x"), "line 3: row = 'x', expected a whole number"),
    "a row that isn't there": (lambda path: cell(path, 4, 0, "999"), "line 4: row = 999, expected 0, 1, 2 and so on"),
    "a wrong split": (
        lambda path: cell(path, 2, 2, "tset"),
        "line 2: split = 'tset', expected one of train, val, test",
    ),
    "no width": (lambda path: cell(path, 2, 4, ""), "line 2: width_original_px = '', expected a whole number"),
    "a scale of 0": (lambda path: cell(path, 3, 6, "0"), "line 3: scale_x = 0.0, expected a number above 0"),
    "an endless scale": (lambda path: cell(path, 3, 7, "inf"), "line 3: scale_y = 'inf', expected a finite number"),
    "a slice twice": (
        lambda path: cell(path, 3, 1, "000001_01_01_001.png"),
        "line 3: file_name = 000001_01_01_001.png",
    ),
    "a row too short": (
        lambda path: path.write_text(path.read_text()[:-20] + "\n"),
        "line 4: has 8 of 9 fields; cut short?",
    ),
    "cut within a row": (lambda path: path.write_text(path.read_text()[:-20]), "line 4: has no end; cut short?"),
    "cut within a field": (lambda path: path.write_text(path.read_text()[:-2]), "line 4: has no end; cut short?"),
    "an open quote": (lambda path: cell(path, 4, 8, '"exact'), "unexpected end of data"),
}


@pytest.mark.parametrize(("damage", "message"), INDICES.values(), ids=INDICES.keys())
def test_a_damaged_index_ends_in_one_line(folder, damage, message):
    damage(folder / "01.csv")
    with pytest.raises(UserError) as caught:
        SliceStore.open(folder, ["01"])
    assert message in str(caught.value) and "01.csv: " in str(caught.value)
    assert str(caught.value).endswith("run `dvc repro -f preprocess@01`") and "\n" not in str(caught.value)


# ---- the index alone, and the slices that count


def test_the_index_is_read_without_the_arrays(folder):
    for path in folder.glob("*.npy"):
        path.unlink()
    index = read_slice_index(["02", "01"], folder)
    assert index["part"].tolist() == ["02", "02", "01", "01", "01"]
    assert index["height_original_px"].tolist() == [768] * 5


def test_image_sizes_are_those_of_the_slices(folder):
    names = ["000001_01_01_002.png", "000001_01_01_002.png", "000002_01_01_001.png", "000009_01_01_001.png"]
    lesions = pd.DataFrame(
        {
            "file_name": names,
            "width_original_px": [np.nan, 512, 640, 300],
            "height_original_px": [np.nan, 512, 640, 300],
        },
        index=[4, 5, 6, 7],
    )
    sized = with_image_sizes(lesions, read_slice_index(["01", "02"], folder))
    assert sized[IMAGE_SIZE].to_numpy().tolist() == [[512, 768], [512, 768], [512, 768], [300, 300]]
    assert sized.index.tolist() == [4, 5, 6, 7]


def test_slices_whose_lesions_are_all_noisy_do_not_count(folder):
    """Slice 1: one noisy and one sound lesion; slice 2: noisy alone; slice 3: none; of the other part: mark unknown."""
    names = ["000001_01_01_001.png"] * 2 + ["000001_01_01_002.png", "000002_01_01_001.png"]
    lesions = pd.DataFrame({"file_name": names, "noisy": [1, 0, 1, np.nan]})
    store = SliceStore.open(folder, ["01", "02"])
    assert len(store.counted(lesions, "keep")) == 5
    counted = store.counted(lesions, "drop")
    assert counted.index["row"].tolist() == [0, 2, 0, 1]
    assert int(counted.slices(1)[0, 0, 0]) == 96
    assert counted_lesions(lesions, "drop").index.tolist() == [1, 3]
