"""The store: what is written is read back, lazily and by other processes; what doesn't go together is refused."""

import errno
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lesionpipe.core.errors import UserError
from lesionpipe.data.slices import SliceStore, write_slices

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
    shards = SliceStore.open(folder, ["01", "02"])
    assert len(shards) == 5
    assert shards.index["part"].tolist() == ["01", "01", "01", "02", "02"]
    assert shards.index["row"].tolist() == [0, 1, 2, 0, 1]
    assert [int(shards.slices(i)[0, 0, 0]) for i in range(5)] == [0, 48, 96, 1000, 1048]
    assert shards.slices(4).shape == SHAPE
    assert shards.index.at[4, "file_name"] == "000002_01_01_002.png"
    assert shards.index.at[0, "scale_y"] == pytest.approx(4 / 768, rel=1e-8)


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
    shards = SliceStore.open(folder, ["01", "02"])
    shards.slices(0)
    small = pickle.dumps(shards)
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


def test_a_cut_array_is_refused(folder):
    whole = (folder / "01.npy").read_bytes()
    (folder / "01.npy").write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"01\.npy: not a whole \.npy array"):
        SliceStore.open(folder, ["01"])


def test_a_missing_column_is_named(folder):
    pd.read_csv(folder / "01.csv").drop(columns="scale_x").to_csv(folder / "01.csv", index=False)
    with pytest.raises(UserError, match="column scale_x is missing"):
        SliceStore.open(folder, ["01"])


def test_too_few_or_misshapen_stacks_leave_the_old_shard_alone(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="1 stacks for an index of 3 rows"):
        write_slices(folder, "01", index_of(3), stacks_of(1), SHAPE)
    with pytest.raises(ValueError, match="expected int16"):
        write_slices(folder, "01", index_of(3), stacks_of(3)[:, :2], SHAPE)
    with pytest.raises(ValueError, match="expected int16"):
        write_slices(folder, "01", index_of(3), stacks_of(3).astype(np.int32), SHAPE)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_leftover_of_a_killed_run_is_removed(folder):
    leftover = folder / ".01.npy.12345.partial"
    leftover.write_bytes(b"half")
    write_slices(folder, "02", index_of(1), stacks_of(1), SHAPE)
    assert leftover.exists()  # another part's may be in use
    write_slices(folder, "01", index_of(1), stacks_of(1), SHAPE)
    assert not leftover.exists()


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_full_disk_is_an_error_with_a_name_and_costs_nothing(small_disk, monkeypatch, asked_before):
    write_slices(small_disk, "01", index_of(3), stacks_of(3), SHAPE)
    before = {path.name: path.read_bytes() for path in small_disk.iterdir()}
    if not asked_before:  # as when another job fills the disk meanwhile, or a quota does
        monkeypatch.setattr("lesionpipe.data.slices._require_space", lambda *_: None)
    made = []
    rows = (made.append(i) or np.zeros((3, 128, 128), np.int16) for i in range(40))
    with pytest.raises(OSError, match=r"01\.npy") as caught:
        write_slices(small_disk, "01", index_of(40), rows, (3, 128, 128))
    assert caught.value.errno == errno.ENOSPC
    assert bool(made) != asked_before
    assert {path.name: path.read_bytes() for path in small_disk.iterdir()} == before
