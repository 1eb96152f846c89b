"""Anchors by hand: where they lie, how large they are, and what they share with boxes."""

import json
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionpipe.anchors import overlap
from lesionpipe.anchors.grid import (
    AnchorSet,
    anchors_for,
    cell_sides,
    centre_inside,
    paper_set,
    read_anchors,
    retinanet_set,
    strides_of,
)
from lesionpipe.anchors.overlap import BestOverlap, anchor_loss
from lesionpipe.core.boxes import pairwise_iou
from lesionpipe.core.errors import UserError


def test_a_grid_of_three_by_three_cells_of_stride_4():
    anchors = anchors_for(AnchorSet((4,), (1,), (1,), (4,)), height=12, width=12)
    assert anchors.dtype == np.float32
    assert anchors.tolist() == [
        [-0.5, -0.5, 3.5, 3.5],
        [3.5, -0.5, 7.5, 3.5],
        [7.5, -0.5, 11.5, 3.5],
        [-0.5, 3.5, 3.5, 7.5],
        [3.5, 3.5, 7.5, 7.5],
        [7.5, 3.5, 11.5, 7.5],
        [-0.5, 7.5, 3.5, 11.5],
        [3.5, 7.5, 7.5, 11.5],
        [7.5, 7.5, 11.5, 11.5],
    ]


def test_order_in_a_cell_is_scale_by_scale_with_all_ratios_each():
    widths_heights = cell_sides(8, scales=(1, 2), ratios=(0.25, 1, 4))
    assert widths_heights.tolist() == [[16, 4], [8, 8], [4, 16], [32, 8], [16, 16], [8, 32]]


def test_levels_follow_each_other_finest_first_and_anchors_may_reach_outside():
    anchors = anchors_for(AnchorSet((2, 40), (1,), (1,), (4, 8)), height=8, width=8)
    assert len(anchors) == 4 + 1
    assert anchors[0].tolist() == [0.5, 0.5, 2.5, 2.5]
    assert anchors[4].tolist() == [-16.5, -16.5, 23.5, 23.5]


def test_corner_anchors_of_a_slice_of_512():
    anchors = anchors_for(retinanet_set(range(3, 8)), 512, 512)
    assert len(anchors) == 9 * (64**2 + 32**2 + 16**2 + 8**2 + 4**2)
    assert anchors[1].tolist() == [-12.5, -12.5, 19.5, 19.5]  # size 32, 1:1, around (4, 4), less half a pixel
    assert np.allclose(
        anchors[-2], [448 - 512 * 2 ** (-1 / 3) - 0.5] * 2 + [448 + 512 * 2 ** (-1 / 3) - 0.5] * 2, atol=1e-3
    )


def test_not_rounded_size_11_3_with_ratio_0_4_is_17_87_by_7_15():
    assert np.round(cell_sides(11.3, (1,), (0.4,)), 2).tolist() == [[17.87, 7.15]]


@given(st.floats(1, 600), st.floats(0.1, 3), st.floats(0.1, 10))
def test_a_ratio_is_height_over_width_at_constant_area(size, scale, ratio):
    width, height = cell_sides(size, (scale,), (ratio,))[0]
    assert height / width == pytest.approx(ratio)
    assert width * height == pytest.approx((size * scale) ** 2)


def test_a_last_cell_with_its_centre_on_the_border_is_predicted_for_but_outside():
    anchors = anchors_for(AnchorSet((96.3,), (1,), (0.37,), (128,)), 192, 192)  # centres 64 and 192
    assert centre_inside(anchors, 192, 192).tolist() == [True, False, False, False]
    assert centre_inside(anchors, 192, 193).tolist() == [True, True, False, False]


def test_sizes_shrink_with_the_slice_and_strides_stay():
    small = paper_set(range(2, 7)).scaled(192 / 512)
    assert small.sizes == (12, 24, 48, 96, 192)
    assert small.strides == (4, 8, 16, 32, 64) == strides_of((2, 3, 4, 5, 6))
    assert small.per_cell == 15


def test_a_set_survives_json_and_other_keys_are_ignored():
    anchor_set = paper_set(range(3, 8))
    assert AnchorSet.from_dict(anchor_set.to_dict() | {"use": "paper"}) == anchor_set


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scales": []}, r"scales = \(\): must be a list of positive numbers"),
        ({"scales": [0.0]}, r"scales = \(0\.0,\): must be a list of positive numbers"),
        ({"sizes": [32.0]}, "1 sizes for 5 levels"),
        ({"sizes": [1e300] * 5}, r"sizes = .*: must be a list of positive numbers up to 1e\+06"),
        ({"sizes": "12345"}, "sizes = '12345': must be a list of positive numbers"),
        ({"sizes": ["32", 64, 128, 256, 512]}, r"sizes = \('32', .*: must be a list of positive numbers"),
        ({"ratios": [float("nan")]}, r"ratios = \(nan,\): must be a list of positive numbers"),
        ({"ratios": [True]}, r"ratios = \(True,\): must be a list of positive numbers"),
        ({"ratios": [10**400]}, "ratios = .*: must be a list of positive numbers"),
        ({"strides": [float("inf")] * 5}, "strides = .*: must be a list of positive numbers"),
        ({"strides": [4, 8, 16, 32, 64.5]}, r"strides = \(4, .*: must be whole numbers of px"),
        ({"strides": None}, "strides = None: must be a list of positive numbers"),
    ],
)
def test_an_impossible_set_is_refused_by_file_and_name(tmp_path, change, message):
    values = paper_set(range(2, 7)).to_dict() | change
    with pytest.raises(UserError, match=f"anchors: {message}"):
        AnchorSet.from_dict(values)
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"anchors\.json: anchors: {message}.*; run `dvc repro -f anchors`") as caught:
        read_anchors(path)
    assert "\n" not in str(caught.value)


def test_the_anchors_in_use_are_read_from_their_file(tmp_path):
    path, anchor_set = tmp_path / "anchors.json", paper_set(range(2, 7))
    with pytest.raises(UserError, match=r"anchors\.json: no such file; run `dvc repro anchors`"):
        read_anchors(path)
    path.write_text(json.dumps(anchor_set.to_dict() | {"use": "paper"}))
    assert read_anchors(path) == anchor_set
    for damaged in ("", "[1]", '{"sizes": [32]'):
        path.write_text(damaged)
        with pytest.raises(UserError, match=r"^[^:]*anchors\.json: [^/]*; run `dvc repro -f anchors`$"):
            read_anchors(path)


def best(boxes, sides, strides=None, image=(64, 64), pixel=0):
    """Best IoU with anchors of one size and ratio 1 per level."""
    anchor_set = AnchorSet(tuple(sides), (1,), (1,), tuple(strides or [1] * len(sides)))
    return BestOverlap(np.array(boxes, float), strides, image, pixel).of(anchor_set)


def test_concentric_iou_of_10_by_20_with_a_square_of_10_is_a_half():
    assert best([[100, 100, 110, 120]], sides=[10]) == pytest.approx(0.5)
    assert best([[0, 0, 10, 10]], sides=[20]) == pytest.approx(100 / 400)
    assert best([[0, 0, 9, 9]], sides=[19], pixel=1) == pytest.approx(100 / 400)  # +1 on the sides of both


def test_on_the_grid_the_nearest_centre_counts():
    # In px from the image's edge: box 3..11 x 2..10, centre (7, 6); stride 4 has centres 6 and 6: a shift of 1 in x.
    assert best([[2.5, 1.5, 10.5, 9.5]], sides=[8], strides=[4]) == pytest.approx(7 * 8 / (128 - 56))
    # Stride 16: centre (8, 8), shifts 1 and 2.
    assert best([[2.5, 1.5, 10.5, 9.5]], sides=[8], strides=[16]) == pytest.approx(7 * 6 / (128 - 42))


def test_at_the_far_border_the_last_centre_inside_counts():
    # Side 18, stride 8: centres 4 and 12; 20 is outside. Box 15..18 shares 1 px with 8..16, not 2 with 16..24.
    box = [[14.5, 14.5, 17.5, 17.5]]
    assert best(box, sides=[8], strides=[8], image=(18, 18)) == pytest.approx(1 / (64 + 9 - 1))
    assert best(box, sides=[8], strides=[64], image=(18, 18)) == 0  # no centre inside at all
    assert best([[10.5, 15.5, 12.5, 17.5]], sides=[2], strides=[8], image=(18, 18)) == 0  # meets in x, not in y
    assert best(box, sides=[8, 8], strides=[64, 8], image=(18, 18)) == pytest.approx(1 / 72)


@st.composite
def boxes_in_images(draw):
    width, height = draw(st.integers(20, 90)), draw(st.integers(20, 90))
    edge = st.tuples(st.floats(0, 1), st.floats(0.01, 0.99))
    boxes = []
    for (x, w), (y, h) in draw(st.lists(st.tuples(edge, edge), min_size=1, max_size=6)):
        w, h = w * width, h * height
        x, y = x * (width - w), y * (height - h)
        boxes.append([x - 0.5, y - 0.5, x + w - 0.5, y + h - 0.5])
    return np.array(boxes), width, height


@settings(max_examples=250, deadline=None)
@given(
    boxes_in_images(),
    st.sampled_from([(4, 8, 16), (8,), (32,), (16, 64)]),
    st.sampled_from([0.0, 1.0]),
    st.floats(0.2, 2),
    st.floats(1, 4),
)
def test_grid_overlap_equals_the_best_of_all_anchors_whose_centre_lies_inside(sample, strides, pixel, scale, ratio):
    boxes, width, height = sample
    anchor_set = AnchorSet(tuple(2 * s for s in strides), (scale, 1.1), (1 / ratio, 1, ratio), strides)
    anchors = anchors_for(anchor_set, height, width).astype(float)
    anchors = anchors[centre_inside(anchors, height, width)]
    everywhere = pairwise_iou(boxes, anchors, pixel).max(axis=1, initial=0)
    prepared = BestOverlap(boxes, anchor_set.strides, (width, height), pixel)
    with mock.patch.object(overlap, "FEW_BOXES", 0):
        in_two_passes = prepared.of(anchor_set)
    at_once = prepared.of(anchor_set)
    assert np.allclose(at_once, everywhere, atol=2e-5)
    assert np.array_equal(at_once, in_two_passes)


def test_losses_by_hand():
    ious = np.array([0.5, 1.0])
    assert anchor_loss(ious, "iou") == pytest.approx(0.25)
    assert anchor_loss(ious, "focal") == pytest.approx(0.25 * np.log(2) / 2)
    assert np.isfinite(anchor_loss(np.zeros(1), "focal"))
