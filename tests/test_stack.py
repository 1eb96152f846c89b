"""Which slices make a stack, what values come out, and where a point of the slice lies in it."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionpipe.data.stored.slices import normalise, to_original, to_stored
from lesionpipe.preprocess.part import build_stack, plan_stack

HU = (-1024, 1050)
ALL = range(-10_000, 10_000)
intervals = st.sampled_from([0.25, 0.3, 0.4, 0.5, 0.6, 1, 1.25, 1.5, 2, 2.5, 3, 3.75, 4, 5]) | st.floats(0.25, 5)


def plan(interval, existing=ALL, slices=3, spacing_mm=2, key=100):
    return plan_stack(key, interval, lambda n: n in existing, slices, spacing_mm)


def constants(values: dict[int, float], side: int = 64) -> dict[int, np.ndarray]:
    return {n: np.full((side, side), value, np.int16) for n, value in values.items()}


def centre_values(stack: np.ndarray) -> list[int]:
    return stack[:, stack.shape[1] // 2, stack.shape[2] // 2].tolist()


@pytest.mark.parametrize(
    ("interval", "needed", "upper"),
    [  # upper: (slices around +2 mm, weight of the second)
        (0.25, (92, 100, 108), (108, 108, 0)),
        (0.4, (95, 100, 105), (105, 105, 0)),
        (0.5, (96, 100, 104), (104, 104, 0)),
        (0.6, (96, 97, 100, 103, 104), (103, 104, 1 / 3)),
        (1, (98, 100, 102), (102, 102, 0)),
        (1.25, (98, 99, 100, 101, 102), (101, 102, 0.6)),
        (1.5, (98, 99, 100, 101, 102), (101, 102, 1 / 3)),
        (2, (99, 100, 101), (101, 101, 0)),
        (2.5, (99, 100, 101), (100, 101, 0.8)),
        (3, (99, 100, 101), (100, 101, 2 / 3)),
        (3.75, (99, 100, 101), (100, 101, 8 / 15)),
        (4, (99, 100, 101), (100, 101, 0.5)),
        (5, (99, 100, 101), (100, 101, 0.4)),
    ],
)
def test_each_interval_needs_the_slices_around_two_millimetres(interval, needed, upper):
    made = plan(interval)
    assert made.needed == list(needed)
    assert made.positions[2] == (*upper[:2], pytest.approx(upper[2]))
    assert made.neighbours == ("interpolated" if upper[2] else "exact")


def test_five_millimetres_apart_the_neighbours_are_mixed_two_to_three():
    images = constants({99: 0, 100: 100, 101: 300})
    stack = build_stack(plan(5), images, 64, HU)
    assert centre_values(stack) == [60, 100, 180]  # 0.4 · 0 + 0.6 · 100 and 0.6 · 100 + 0.4 · 300
    assert stack.dtype == np.int16
    assert stack.shape == (3, 64, 64)


def test_a_position_on_a_slice_is_that_slice():
    images = constants({98: 7, 99: 500, 100: 8, 101: 500, 102: 9})
    assert centre_values(build_stack(plan(1), images, 64, HU)) == [7, 8, 9]


def test_five_slices_reach_four_millimetres_to_either_side():
    assert plan(2, slices=5).positions == tuple((number, number, 0) for number in (98, 99, 100, 101, 102))
    between = ((99, 99, 0), (99, 100, 0.5), (100, 100, 0), (100, 101, 0.5), (101, 101, 0))
    assert plan(4, slices=5) == (between, "interpolated")


def test_a_missing_neighbour_duplicates_the_lesion_slice_on_its_side_only():
    made = plan(5, existing=(99, 100))
    assert made == (((99, 100, pytest.approx(0.6)), (100, 100, 0), (100, 100, 0)), "duplicated")
    assert centre_values(build_stack(made, constants({99: 0, 100: 100}), 64, HU)) == [60, 100, 100]


def test_with_one_of_two_slices_there_is_nothing_to_interpolate():
    assert plan(1.5, existing=(98, 99, 100, 101)).positions[2] == (100, 100, 0)  # +2 mm: between 101 and the absent 102
    assert plan(5, existing=(98, 100, 102)).needed == [100]  # a gap is not bridged


@pytest.mark.parametrize("interval", [None, math.nan, math.inf, 0, -5, 1e-310])
def test_an_unknown_interval_duplicates_and_says_so(interval):
    made = plan(interval)
    assert made.needed == [100]
    assert made.neighbours == "unknown interval"


def test_one_slice_needs_no_neighbours_and_no_interval():
    assert plan(None, slices=1) == (((100, 100, 0),), "exact")


def test_values_are_interpolated_in_hu_and_clipped_afterwards():
    images = constants({99: -3000, 100: 0, 101: 3000})
    assert centre_values(build_stack(plan(4), images, 64, HU)) == [
        -1024,
        0,
        1050,
    ]  # ∓1500, not half of the clipped ∓1024
    assert centre_values(build_stack(plan(5), constants({99: -2000, 100: 100, 101: 2000}), 64, HU)) == [-740, 100, 860]


def test_shrinking_averages_and_keeps_the_plane():
    image = np.zeros((128, 128), np.int16)
    image[0, 0], image[0, 1], image[1, 0], image[1, 1] = 10, 20, 30, 44
    stack = build_stack(plan(None), {100: image}, 64, HU)
    assert stack[0, 0, 0] == 26
    assert stack[0, 0, 1] == stack[0, 1, 0] == 0


def test_what_is_clipped_does_not_bleed_on_resizing():
    image = np.zeros((128, 128), np.int16)
    image[0, 0] = 20_000  # metal
    assert build_stack(plan(None), {100: image}, 64, HU)[0, 0, 0] == round(1050 / 4)


@pytest.mark.parametrize(
    ("width", "height", "size"), [(768, 768, 512), (1024, 1024, 512), (512, 512, 192), (64, 96, 192)]
)
def test_a_point_lies_where_to_stored_says(width, height, size):
    """On ramps in x and y the resized value is the coordinate itself: HU = 1 per px, away from the border."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    inner = slice(size // 8, -size // 8)
    stored = np.arange(size)[inner]
    original = to_original(np.stack([stored, stored], -1), size / width, size / height)
    for axis, image in enumerate((x, y)):
        resized = build_stack(plan(None), {100: image.astype(np.int16)}, size, HU)[0]
        line = resized[size // 2, inner] if axis == 0 else resized[inner, size // 2]
        assert np.abs(line - original[:, axis]).max() <= 0.51
    assert to_stored(original, size / width, size / height)[:, 0] == pytest.approx(stored)


def test_boxes_are_carried_by_one_formula():
    assert to_stored([0, 0, 511, 511], 0.375, 0.375).tolist() == [-0.3125, -0.3125, 191.3125, 191.3125]
    assert to_stored([[10, 20]], np.array([0.5]), np.array([0.25])).tolist() == [[4.75, 4.625]]
    per_row = to_stored([[1, 1, 3, 3], [1, 1, 3, 3]], np.array([1, 2]), np.array([1, 2]))
    assert per_row.tolist() == [[1, 1, 3, 3], [2.5, 2.5, 6.5, 6.5]]


def test_hu_become_minus_one_to_one_in_arrays_and_tensors():
    values = np.array([-1024, 13, 1050], np.int16)
    assert normalise(values, HU).tolist() == [-1, 0, 1]
    assert normalise(values, HU).dtype == np.float32
    assert normalise(torch.tensor(values), HU).tolist() == [-1, 0, 1]
    extreme = np.array([-32768, 32767], np.int16)
    assert normalise(extreme, (-32768, 32767)).tolist() == [-1, 1]  # no overflow in 16 bits


@given(intervals, st.sampled_from([1, 3, 5, 9]), st.floats(0.5, 5), st.integers(-200, 200), st.integers(-5, 5))
@settings(deadline=None)
def test_a_linear_ramp_in_z_is_met_everywhere(interval, slices, spacing_mm, offset, slope):
    made = plan(interval, slices=slices, spacing_mm=spacing_mm)
    images = {n: np.full((8, 8), offset + slope * (n - 100), np.int16) for n in made.needed}
    got = centre_values(build_stack(made, images, 8, (-32768, 32767)))
    positions = [k * spacing_mm / interval for k in range(-(slices // 2), slices // 2 + 1)]
    assert got == pytest.approx([offset + slope * p for p in positions], abs=0.501)


@given(intervals, st.sets(st.integers(90, 110)), st.sampled_from([8, 16, 5]), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_values_never_leave_the_range_of_what_exists_and_nothing_absent_is_read(interval, existing, size, random):
    made = plan(interval, existing=existing | {100})
    assert set(made.needed) <= existing | {100}
    rng = np.random.default_rng(random.getrandbits(32))
    images = {n: rng.integers(-2000, 3000, (8, 8)).astype(np.int16) for n in made.needed}
    stack = build_stack(made, images, size, HU)
    assert stack.min() >= max(HU[0], min(HU[1], min(i.min() for i in images.values())))
    assert stack.max() <= min(HU[1], max(HU[0], max(i.max() for i in images.values())))


@given(intervals, st.integers(-1000, 1000), st.sampled_from([8, 32, 5]))
@settings(deadline=None)
def test_a_constant_volume_stays_constant(interval, value, size):
    made = plan(interval, slices=5)
    images = {n: np.full((8, 8), value, np.int16) for n in made.needed}
    assert (build_stack(made, images, size, HU) == value).all()


@given(st.lists(st.floats(-2000, 2000), min_size=4, max_size=4), st.floats(0.1, 4), st.floats(0.1, 4))
def test_to_original_undoes_to_stored(box, scale_x, scale_y):
    there = to_stored(box, scale_x, scale_y)
    assert to_original(there, scale_x, scale_y) == pytest.approx(box, abs=1e-8)


def test_resizing_is_opencvs():
    image = np.random.default_rng(0).integers(-1000, 1000, (96, 96)).astype(np.int16)
    expected = cv2.resize(image.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(build_stack(plan(None), {100: image}, 64, HU)[1] - expected).max() <= 0.5
