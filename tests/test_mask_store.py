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
from lesionpipe.masks import agreement as quality
from lesionpipe.masks import summary

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
    assert (store.rows("01"), store.rows("02")) == (4, 0)


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
    with pytest.raises(UserError, match=r"01\.npz: not a whole store"):
        MaskStore.open(tmp_path, ["01"])


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
    assert np.argwhere(quality.stored_mask(mask, 4)).tolist() == [[0, 0], [0, 1]]
    dot = np.zeros((8, 8), bool)
    dot[5, 5] = True
    assert np.argwhere(quality.stored_mask(dot, 2)).tolist() == [[1, 1]]


def test_a_measure_has_the_spacing_of_the_stored_slice() -> None:
    true = np.zeros((8, 8), bool)
    true[2:6, 2:6] = True  # on the stored grid of 4 px: px 1 and 2 both ways
    mask = np.zeros((4, 4), bool)
    mask[1:3, 2:4] = True  # one stored px, that is 2 · 0.5 mm, to the right
    assert summary.measure(mask, true, 0.5) == (pytest.approx(0.5), pytest.approx(0.5))
    assert np.isnan(summary.measure(mask, true, float("nan"))[1])


def test_the_summary_tells_means_of_each_group_that_has_lesions() -> None:
    table = pd.DataFrame({"method": ["grabcut", "ellipse"], "type": "liver", "long_diameter_mm": [5.0, 12.0]})
    table = table.assign(dice=[0.9, 0.7], boundary_mm=[0.5, np.nan], reason=["", "constant image"])
    found = summary.agreement(table)
    assert found["all"] == {"lesions": 2, "dice": 0.8, "boundary_mm": 0.5, "dice_p10": 0.72}
    assert list(found["by_size"]) == ["< 10 mm", "10-30 mm"]
    assert found["by_method"]["ellipse"]["boundary_mm"] is None
    assert summary.counts(table) == {
        "lesions": 2,
        "by_method": {"grabcut": 1, "ellipse": 1},
        "by_reason": {"constant image": 1},
    }
