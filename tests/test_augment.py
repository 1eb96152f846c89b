"""Flips and affine transforms of image, mask and boxes, with numbers worked by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lesionpipe.train.dataset import (
    AugmentationRanges,
    compose,
    crop_corner,
    crop_side,
    ellipse_points,
    keep_inside,
    mask_points,
    random_matrix,
    transform_box,
    warp_masks,
    warp_slices,
)

SIDE = 101  # the centre is pixel 50
SQUARE = np.array([[40, 40], [60, 40], [60, 60], [40, 60]], float)
BOX = np.array([35, 35, 65, 65], float)  # the square and 5 px


def ranges(**changes):
    """The paper's, with changes."""
    return AugmentationRanges(flip=0.5, rotation_rad=0.1, shear_rad=0.1, scale=0.1, translation=0.1)._replace(**changes)


def test_half_a_right_angle_turns_a_square_on_its_corner():
    box = transform_box(BOX, SQUARE, compose(SIDE, rotation=np.pi / 4))
    half = 10 * np.sqrt(2) + 5 / np.sqrt(2)  # the corner, and the margin's arrow of 5 px seen along the axis
    np.testing.assert_allclose(box, [50 - half, 50 - half, 50 + half, 50 + half])
    assert half < 15 * np.sqrt(2)  # the corners of the turned box would reach that far


def test_a_quarter_turn_moves_each_margin_to_the_next_side():
    box = np.array([38, 37, 63, 64], float)  # margins: left 2, top 3, right 3, bottom 4
    turned = transform_box(box, SQUARE, compose(SIDE, rotation=np.pi / 2))  # (x, y) -> (-y, x) about the centre
    np.testing.assert_allclose(turned, [36, 38, 63, 63])


def test_doubling_doubles_lesion_and_margin():
    np.testing.assert_allclose(transform_box(BOX, SQUARE, compose(SIDE, scale=(2, 2))), [20, 20, 80, 80])


def test_shear_moves_what_lies_below_the_centre_to_the_right():
    box = transform_box(BOX, SQUARE, compose(SIDE, shear=np.arctan(0.5)))  # x' = x + y / 2 about the centre
    np.testing.assert_allclose(box, [50 - 10 - 5 - 5, 35, 50 + 10 + 5 + 5, 65])


def test_a_round_lesion_keeps_its_box_when_it_is_turned():
    turned = transform_box(
        np.array([45.0, 45, 55, 55]), ellipse_points(np.array([45.0, 45, 55, 55])), compose(SIDE, rotation=0.1)
    )
    np.testing.assert_allclose(turned, [45, 45, 55, 55], atol=0.05)


@given(
    st.lists(st.floats(0, 500), min_size=8, max_size=8),
    st.lists(st.floats(0, 6), min_size=4, max_size=4),
    st.tuples(st.sampled_from([1, -1]), st.sampled_from([1, -1])),
)
def test_flips_and_identity_give_back_the_very_box(numbers, margins, flip):
    points = np.array(numbers, np.float32).reshape(4, 2).astype(float)
    box = np.concatenate([points.min(0) - margins[:2], points.max(0) + margins[2:]]).astype(np.float32).astype(float)
    moved = transform_box(box, points, compose(512, flip=flip)).astype(np.float32)
    x = box[[0, 2]] if flip[0] == 1 else 511 - box[[2, 0]]
    y = box[[1, 3]] if flip[1] == 1 else 511 - box[[3, 1]]
    expected = np.array([x[0], y[0], x[1], y[1]], np.float32)
    np.testing.assert_allclose(moved, expected, rtol=1e-7, atol=1e-12)


def test_flips_of_stored_boxes_are_exact():
    box = np.array([100.5, 80.25, 130.75, 120.5])
    points = np.array([[105.5, 90], [125.75, 100], [110, 85.25], [112, 115.5]])
    np.testing.assert_array_equal(transform_box(box, points, compose(512)), box)
    flipped = transform_box(box, points, compose(512, flip=(-1, 1)))
    np.testing.assert_array_equal(flipped, [511 - 130.75, 80.25, 511 - 100.5, 120.5])


def test_points_outside_a_box_that_was_cut_at_the_image_count_as_on_its_edge():
    box = np.array([90.0, 40, 100, 60])
    points = np.array([[95.0, 50], [107, 50], [100, 45], [100, 55]])
    np.testing.assert_array_equal(transform_box(box, points, compose(SIDE)), box)


def test_image_flips_are_exact_and_leave_other_slices_apart():
    slices = np.random.default_rng(0).integers(-1024, 1050, (5, 16, 16)).astype(np.int16)
    np.testing.assert_array_equal(warp_slices(slices, compose(16, flip=(-1, -1)), -1024, 16), slices[:, ::-1, ::-1])
    np.testing.assert_array_equal(warp_slices(slices, compose(16), -1024, 16), slices)


def test_what_comes_from_outside_is_air():
    slices = np.zeros((3, 16, 16), np.int16)
    moved = warp_slices(slices, compose(16, shift=(4, 0)), -1000, 16)
    assert (moved[:, :, :4] == -1000).all() and (moved[:, :, 4:] == 0).all()


def test_image_mask_and_box_move_together():
    image, mask = np.full((1, SIDE, SIDE), -1000, np.int16), np.zeros((SIDE, SIDE), np.uint8)
    image[0, 40:61, 40:61], mask[40:61, 40:61] = 0, 1
    matrix = compose(SIDE, flip=(-1, 1), scale=(1.1, 0.9), shear=0.1, rotation=-0.1, shift=(7, -5))
    box = transform_box(BOX, SQUARE, matrix)
    for moved in (warp_masks(mask[None], matrix, len(mask))[0], warp_slices(image, matrix, -1000, len(mask))[0] > -500):
        y, x = np.nonzero(moved)
        seen = np.array([x.min(), y.min(), x.max(), y.max()])
        np.testing.assert_allclose(seen - box, [5.4, 4.5, -5.4, -4.5], atol=0.9)  # the margin, stretched and slanted


def test_a_lesion_whose_centre_left_the_image_is_dropped_and_others_are_cut():
    boxes = np.array([[-8.0, 2, 6, 8], [-4, 2, 6, 8], [10, 12, 18, 15], [4, 4, 8, 8]])
    cut, inside = keep_inside(boxes, 16)
    np.testing.assert_array_equal(inside, [False, True, True, True])
    np.testing.assert_array_equal(cut[1:], [[-0.5, 2, 6, 8], [10, 12, 15.5, 15], [4, 4, 8, 8]])


def test_no_lesions_stay_no_lesions():
    cut, inside = keep_inside(np.zeros((0, 4)), 16)
    assert cut.shape == (0, 4) and inside.shape == (0,)


def test_outline_of_a_mask_is_its_hull_and_nothing_for_an_empty_one():
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    points = mask_points(mask)
    np.testing.assert_array_equal([points.min(0), points.max(0)], [[3, 2], [7, 4]])
    assert mask_points(np.zeros((9, 9), bool)).shape == (0, 2)


@pytest.mark.parametrize("chance, signs", [(0.0, {1.0}), (1.0, {-1.0})])
def test_flip_chance_and_nothing_else(chance, signs):
    still = ranges(flip=chance, rotation_rad=0, shear_rad=0, scale=0, translation=0)
    matrices = [random_matrix(np.random.default_rng(i), still, 64) for i in range(8)]
    assert {m[0, 0] for m in matrices} == signs == {m[1, 1] for m in matrices}


def test_drawn_transforms_stay_within_their_ranges():
    drawn = [random_matrix(np.random.default_rng(i), ranges(flip=0), 100) for i in range(300)]
    centre = np.array([49.5, 49.5, 1])
    shifts = np.array([(m @ centre - centre)[:2] for m in drawn])
    areas = np.array([np.linalg.det(m[:2, :2]) for m in drawn])
    turns = np.array([np.arctan2(m[1, 0], m[0, 0]) for m in drawn])
    assert 9 < np.abs(shifts).max() <= 10
    assert 0.81 <= areas.min() < 0.87 and 1.13 < areas.max() <= 1.21
    assert 0.09 < np.abs(turns).max() <= 0.1


def corners(boxes, side, crop):
    """The corners of 300 random crops."""
    generator = np.random.default_rng(0)
    return np.array([crop_corner(generator, np.array(boxes, float).reshape(-1, 4), side, crop) for _ in range(300)])


def test_a_crop_holds_its_lesion_and_lies_at_every_place_that_does():
    """Pixels 20 to 29 in x, 0 to 4 in y; a crop of 16 px may start at 14 to 20 in x, at 0 alone in y."""
    found = corners([19.5, -0.5, 29.5, 4.5], 64, 16)
    assert set(found[:, 0]) == set(range(14, 21)) and set(found[:, 1]) == {0}


@given(
    st.lists(st.tuples(*[st.floats(-20, 90)] * 2, *[st.floats(0.5, 80)] * 2), min_size=1, max_size=4),
    st.integers(8, 64),
    st.integers(0, 2**32 - 1),
)
def test_a_crop_lies_in_the_image_and_keeps_a_lesion_where_there_is_one(lesions, crop, seed):
    """Also lesions cut at the border, or larger than crop or image: one with its centre in the image stays."""
    boxes = np.array([[x, y, x + width, y + height] for x, y, width, height in lesions])
    corner = crop_corner(np.random.default_rng(seed), boxes, 64, crop)
    assert (corner >= 0).all() and (corner <= 64 - crop).all()
    assert keep_inside(boxes - np.tile(corner, 2), crop)[1].any() == keep_inside(boxes, 64)[1].any()


def test_a_crop_smaller_than_its_lesion_lies_in_its_middle():
    assert (corners([9.5, 9.5, 49.5, 49.5], 64, 16) == 22).all()  # pixels 10 to 49, of which 22 to 37 are the middle


def test_each_lesion_has_its_crops_but_not_one_outside_the_image():
    found = corners([[0, 0, 15, 15], [48, 48, 63, 63], [70, 70, 80, 80]], 64, 16)
    assert set(map(tuple, found)) == {(0, 0), (48, 48)}


def test_without_a_lesion_the_crop_lies_anywhere_in_the_image():
    found = corners([], 20, 16)
    assert set(found[:, 0]) == set(found[:, 1]) == set(range(5))


def test_the_crop_of_an_image_is_that_part_of_it():
    slices = np.arange(64, dtype=np.int16).reshape(1, 8, 8)
    np.testing.assert_array_equal(warp_slices(slices, compose(8, shift=(-2, -3)), -1024, 4), slices[:, 3:7, 2:6])


@pytest.mark.parametrize(
    ("share", "side", "stride", "wanted"),
    [(0.75, 256, 64, 192), (0.75, 512, 64, 384), (0.75, 256, 128, None), (0.5, 256, 128, 128), (0.6, 320, 64, 192)],
)
def test_a_crop_is_padded_as_the_whole_image_is(share, side, stride, wanted):
    """0.6 of 320 px is 192, two strides less; of 256 px three quarters are less than one stride of 128 away."""
    assert crop_side(share, side, stride) == wanted


def test_without_cropping_there_is_no_crop():
    assert crop_side(1, 256, 64) is None
