"""The store of masks: what goes in comes out, equal masks give equal bytes, overlapping lesions keep a mask each."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lesionpipe.core.errors import UserError
from lesionpipe.data.masks import MaskStore, StoredMask, write_masks
from lesionpipe.mask_quality import quality
from lesionpipe.mask_quality.quality import agreement_by_group, method_counts

DISC = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], bool)


def test_a_mask_comes_back_at_its_place(tmp_path: Path) -> None:
    write_masks(tmp_path / "01.npz", [StoredMask(7, 2, 4, 1, DISC)], side=8)
    lesions, masks = MaskStore.open(tmp_path, ["01"]).of_slice("01", 2)
    assert lesions.tolist() == [7]
    assert masks.shape == (1, 8, 8)
    assert np.argwhere(masks[0]).tolist() == [[1, 5], [2, 4], [2, 5], [2, 6], [3, 5]]


def test_overlapping_lesions_of_a_slice_are_both_kept(tmp_path: Path) -> None:
    write_masks(tmp_path / "01.npz", [StoredMask(9, 0, 1, 0, DISC), StoredMask(3, 0, 0, 0, DISC)], side=5)
    lesions, masks = MaskStore.open(tmp_path, ["01"]).of_slice("01", 0)
    assert lesions.tolist() == [3, 9]
    assert masks.sum(axis=(1, 2)).tolist() == [5, 5]
    assert (masks[0] & masks[1]).sum() == 2  # the middle row's px 1 and 2


def test_slices_without_lesions_have_no_masks(tmp_path: Path) -> None:
    write_masks(tmp_path / "01.npz", [StoredMask(1, 1, 0, 0, DISC), StoredMask(2, 3, 0, 0, DISC)], side=4)
    write_masks(tmp_path / "02.npz", [], side=4)
    store = MaskStore.open(tmp_path, ["01", "02"])
    assert [len(store.of_slice("01", row)[0]) for row in (0, 1, 2, 3, 4, 99)] == [0, 1, 0, 1, 0, 0]
    assert store.of_slice("02", 0)[1].shape == (0, 4, 4)
    assert (store.rows("01"), store.rows("02")) == ([1, 3], [])


def test_equal_masks_give_equal_bytes_whatever_the_order_and_time(tmp_path: Path) -> None:
    masks = [StoredMask(9, 1, 1, 0, DISC), StoredMask(3, 0, 0, 0, DISC)]
    write_masks(tmp_path / "a.npz", masks, side=5)
    time.sleep(2.1)  # a zip's clock ticks every 2 s
    write_masks(tmp_path / "b.npz", masks[::-1], side=5)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9)))), max_size=6)
)
def test_any_masks_come_back(tmp_path_factory: pytest.TempPathFactory, drawn: list) -> None:
    folder = tmp_path_factory.mktemp("store")
    masks = [StoredMask(i, row, i, 2, mask) for i, (row, mask) in enumerate(drawn) if mask.any()]
    write_masks(folder / "01.npz", masks, side=16)
    store = MaskStore.open(folder, ["01"])
    found = {int(lesion): m for r in range(6) for lesion, m in zip(*store.of_slice("01", r), strict=True)}
    assert found.keys() == {m.lesion for m in masks}
    for m in masks:
        expected = np.zeros((16, 16), bool)
        expected[2 : 2 + m.mask.shape[0], m.x0 : m.x0 + m.mask.shape[1]] = m.mask
        assert np.array_equal(found[m.lesion], expected)


@pytest.mark.parametrize("mask", [StoredMask(5, 0, 0, 0, np.zeros((2, 2), bool)), StoredMask(5, 0, 6, 0, DISC)])
def test_empty_masks_and_masks_beyond_the_slice_are_refused(tmp_path: Path, mask: StoredMask) -> None:
    with pytest.raises(ValueError, match="lesion 5"):
        write_masks(tmp_path / "01.npz", [mask], side=8)
    assert not list(tmp_path.iterdir())


def test_a_missing_or_cut_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"02\.npz: no such file; run `dvc repro masks@02`"):
        MaskStore.open(tmp_path, ["02"])
    write_masks(tmp_path / "01.npz", [StoredMask(1, 0, 0, 0, DISC)], side=4)
    path = tmp_path / "01.npz"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"01\.npz: not a whole \.npz archive"):
        MaskStore.open(tmp_path, ["01"])


SOUND = {
    "lesion": np.array([3, 5], np.int32),
    "row": np.array([0, 2], np.int32),
    "box": np.array([[0, 0, 3, 3], [1, 4, 3, 3]], np.int16),
    "start": np.array([0, 2, 4], np.int64),
    "bits": np.full(4, 255, np.uint8),
    "side": np.array(8, np.int32),
}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("side", np.array(10**6, np.int32), "side = 1000000: must be 1 to 16384 px"),
        ("side", np.array([8], np.int32), r"side is int32 \(1,\), expected int32 \(\)"),
        ("row", np.array([0, 2**31 - 1], np.int32), "row = 2147483647: must be 0 to"),
        ("row", np.array([-1, 2], np.int32), "row = -1"),
        ("row", np.array([2, 0], np.int32), "sorted by row and lesion"),
        ("row", np.array([0.0, 2.0]), "row is float64"),
        ("lesion", np.array([3, 3], np.int32), "a lesion has two"),
        ("box", np.array([[0, 0, 3, 3], [1, 6, 3, 3]], np.int16), r"lesion 5: box = \[1, 6, 3, 3\] isn't within 8 px"),
        ("box", np.array([[-1, 0, 3, 3], [1, 4, 3, 3]], np.int16), "lesion 3: box"),
        ("box", np.array([[0, 0, 3, 0], [1, 4, 3, 3]], np.int16), "lesion 3: box"),
        ("start", np.array([-2, 2, 4], np.int64), "start and bits don't fit the boxes"),
        ("start", np.array([0, 2], np.int64), r"start is int64 \(2,\)"),
        ("bits", np.full(3, 255, np.uint8), "start and bits"),
    ],
)
def test_arrays_that_cannot_be_a_store_are_refused_in_one_line(
    tmp_path: Path, name: str, value: np.ndarray, message: str
) -> None:
    np.savez(tmp_path / "01.npz", **SOUND)
    assert MaskStore.open(tmp_path, ["01"]).of_slice("01", 2)[1].sum() == 9
    np.savez(tmp_path / "01.npz", **SOUND | {name: value})
    with pytest.raises(UserError, match=rf"01\.npz: .*{message}.*; run `dvc repro -f masks@01`") as caught:
        MaskStore.open(tmp_path, ["01"])
    assert "\n" not in str(caught.value)


def test_dice_and_boundary_distance_of_shifted_squares() -> None:
    a, b = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    a[2:4, 2:4] = True
    b[2:4, 3:5] = True
    assert quality.dice(a, b) == pytest.approx(0.5)
    # all 4 px of each are boundary; half of them lie on the other mask, half one column (0.8 mm) beside it
    assert quality.boundary_distance(a, b, (0.5, 0.8)) == pytest.approx(0.4)
    assert quality.boundary_distance(a, a) == 0
    assert quality.dice(np.zeros_like(a), np.zeros_like(a)) == 1


def test_the_boundary_leaves_out_the_inside() -> None:
    mask = np.zeros((7, 7), bool)
    mask[1:6, 1:6] = True
    assert quality.boundary(mask).sum() == 16
    assert not quality.boundary(mask)[3, 3]


def test_a_true_mask_on_the_stored_grid_keeps_half_covered_pixels_and_never_vanishes() -> None:
    mask = np.zeros((8, 8), bool)
    mask[0:2, 0:3] = True
    assert np.argwhere(quality.on_stored_grid(mask, 4)).tolist() == [[0, 0], [0, 1]]
    dot = np.zeros((8, 8), bool)
    dot[5, 5] = True
    assert np.argwhere(quality.on_stored_grid(dot, 2)).tolist() == [[1, 1]]


def test_a_measure_has_the_spacing_of_the_stored_slice() -> None:
    true = np.zeros((8, 8), bool)
    true[2:6, 2:6] = True  # on the stored grid of 4 px: px 1 and 2 both ways
    mask = np.zeros((4, 4), bool)
    mask[1:3, 2:4] = True  # one stored px, that is 2 · 0.5 mm, to the right
    assert quality.measured_agreement(mask, true, 0.5) == (pytest.approx(0.5), pytest.approx(0.5))
    assert np.isnan(quality.measured_agreement(mask, true, float("nan"))[1])
    assert np.isnan(quality.measured_agreement(mask, true, 1e300)[1])  # it was infinite, which JSON can't hold


def test_the_summary_has_means_of_each_group_that_has_lesions() -> None:
    table = pd.DataFrame({"method": ["grabcut", "ellipse"], "type": "liver", "long_diameter_mm": [5.0, 12.0]})
    table = table.assign(dice=[0.9, 0.7], boundary_mm=[0.5, np.nan], reason=["", "constant image"])
    found = agreement_by_group(table, (10, 30))
    assert found["all"] == {"lesions": 2, "dice": 0.8, "boundary_mm": 0.5, "dice_p10": 0.72}
    assert list(found["by_size"]) == ["< 10 mm", "10-30 mm"]
    assert found["by_method"]["ellipse"]["boundary_mm"] is None
    assert method_counts(table) == {
        "lesions": 2,
        "by_method": {"grabcut": 1, "ellipse": 1},
        "by_reason": {"constant image": 1},
    }
