"""Decoding and calibration on a few boxes and masks drawn by hand."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import nms

from lesionpipe.detectors.interface import DecodingSettings
from lesionpipe.detectors.retinanet.decode import calibrate, decode_maps, mask_boxes
from lesionpipe.detectors.retinanet.network import RawMaps, encode_boxes

SETTINGS = DecodingSettings(
    score_threshold=0.0, topk_candidates=100, nms_iou=0.5, detections_per_image=100, calibrate=False, mask_threshold=0.5
)
SIZE = (64, 64)
LOGIT_OF_3_4 = 1.0986123  # ln 3


def settings_with(**changes) -> DecodingSettings:
    return dataclasses.replace(SETTINGS, **changes)


def maps(scores, offsets=None, mask=None, level_sizes=()) -> RawMaps:
    logits = torch.logit(torch.tensor(scores, dtype=torch.float32))
    offsets = torch.zeros(*logits.shape, 4) if offsets is None else offsets
    return RawMaps(logits, offsets, mask, level_sizes or (logits.shape[1],))


def mask_with(*rectangles, side=64) -> torch.Tensor:
    """(1, side, side) bool; each rectangle is first column, first row, last column, last row."""
    mask = torch.zeros(1, side, side, dtype=torch.bool)
    for x0, y0, x1, y1 in rectangles:
        mask[0, y0 : y1 + 1, x0 : x1 + 1] = True
    return mask


def calibrated(box, mask, margin=0.0) -> float:
    """1 + IoU of one box, since p = 1."""
    return calibrate(torch.tensor([box]), torch.ones(1), torch.zeros(1, dtype=torch.long), mask, margin).item()


def test_encoded_boxes_come_back():
    anchors = torch.tensor([[10.0, 10, 20, 30], [30.0, 30, 40, 40]])
    lesions = torch.tensor([[12.0, 11, 21, 28], [29.0, 33, 42, 38]])
    offsets = encode_boxes(lesions, anchors)
    found = decode_maps(maps([[0.9, 0.8]], offsets[None]), anchors, SETTINGS, SIZE, 0)[0]
    torch.testing.assert_close(found.boxes, lesions)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_boxes_are_cut_at_the_outer_edges_of_the_border_pixels():
    anchors = torch.tensor([[-5.0, -5, 70, 40]])
    found = decode_maps(maps([[0.9]]), anchors, SETTINGS, (32, 64), 0)[0]
    assert found.boxes.tolist() == [[-0.5, -0.5, 63.5, 31.5]]


def test_the_best_of_overlapping_boxes_survives_and_images_do_not_mix():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0.0, 0, 10, 11], [30.0, 30, 40, 40]])
    first, second = decode_maps(maps([[0.6, 0.9, 0.3], [0.8, 0.2, 0.1]]), anchors, SETTINGS, SIZE, 0)
    assert first.scores.tolist() == pytest.approx([0.9, 0.3])
    assert second.scores.tolist() == pytest.approx([0.8, 0.1])
    assert second.boxes[0].tolist() == [0, 0, 10, 10]


def test_scores_below_the_threshold_are_dropped_and_an_image_may_stay_empty():
    anchors = torch.tensor([[0.0, 0, 10, 10], [30.0, 30, 40, 40]])
    first, second = decode_maps(
        maps([[0.6, 0.04], [0.03, 0.02]]), anchors, settings_with(score_threshold=0.05), SIZE, 0
    )
    assert first.scores.tolist() == pytest.approx([0.6])
    assert second.boxes.shape == (0, 4)
    assert second.scores.shape == (0,)


def test_each_level_has_its_own_candidates():
    anchors = torch.tensor([[20.0 * i, 0, 20 * i + 10, 10] for i in range(4)])
    raw = maps([[0.9, 0.8, 0.7, 0.1]], level_sizes=(3, 1))
    found = decode_maps(raw, anchors, settings_with(topk_candidates=1), (128, 128), 0)[0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.1])


def test_at_most_per_image_detections_are_kept_of_each_image():
    anchors = torch.tensor([[20.0 * i, 0, 20 * i + 10, 10] for i in range(3)])
    found = decode_maps(
        maps([[0.1, 0.9, 0.5], [0.9, 0.2, 0.95]]), anchors, settings_with(detections_per_image=2), (128, 128), 0
    )
    assert [f.scores.tolist() for f in found] == [pytest.approx([0.9, 0.5]), pytest.approx([0.95, 0.9])]


def test_suppression_agrees_with_torchvision_image_by_image():
    torch.manual_seed(0)
    corners = torch.rand(200, 2) * 80
    anchors = torch.cat([corners, corners + 5 + torch.rand(200, 2) * 30], dim=1)
    raw = maps(torch.rand(3, 200).tolist(), level_sizes=(150, 50))
    for i, found in enumerate(decode_maps(raw, anchors, settings_with(topk_candidates=200), (200, 200), 0)):
        scores = raw.logits[i].sigmoid()
        keep = nms(anchors, scores, 0.5)[:100]
        torch.testing.assert_close(found.boxes, anchors[keep])
        torch.testing.assert_close(found.scores, scores[keep])


def test_suppression_goes_beyond_the_shortlist_where_that_yields_too_few():
    # one detection an image wanted: the shortlist holds 10; two wanted: 20, all of which are copies of one box
    anchors = torch.tensor([[0.0, 0, 10, 10]] * 25 + [[30.0, 30, 40, 40]])
    scores = [0.9 - 0.01 * i for i in range(26)]
    for wanted, expected in ((1, [0.9]), (2, [0.9, 0.65])):
        found = decode_maps(maps([scores]), anchors, settings_with(detections_per_image=wanted), SIZE, 0)[0]
        assert found.scores.tolist() == pytest.approx(expected)


def test_without_mask_pixels_the_score_stays():
    assert calibrated([10.0, 10, 20, 20], mask_with()) == 1
    assert calibrated([10.0, 10, 20, 20], mask_with((40, 40, 50, 50))) == 1


def test_a_mask_that_fills_the_box_doubles_the_score():
    assert calibrated([10.0, 10, 20, 20], mask_with((10, 10, 20, 20))) == pytest.approx(2)


def test_each_box_may_have_a_margin_of_its_own():
    boxes, mask = torch.tensor([[10.0, 10, 20, 20]] * 2), mask_with((13, 14, 17, 16))
    both = torch.zeros(2, dtype=torch.long)
    scores = calibrate(boxes, torch.ones(2), both, mask, torch.tensor([[3.0, 4], [3, 3]]))
    assert scores.tolist() == pytest.approx([2, 1 + 8 / 10])  # 10 x 10, and 10 x 8 within 10 x 10


def test_the_margin_is_added_around_the_mask():
    assert calibrated([10.0, 10, 20, 20], mask_with((13, 13, 17, 17)), margin=3) == pytest.approx(2)
    # mask box 6 x 6 in a box of 10 x 10
    assert calibrated([10.0, 10, 20, 20], mask_with((12, 12, 18, 18))) == pytest.approx(1.36)


def test_a_mask_beyond_the_box_lowers_the_score():
    # the window is widened by 4 of 16, so the mask's box is 24 wide: 16 / 24
    assert calibrated([16.0, 16, 32, 32], mask_with((0, 16, 63, 32))) == pytest.approx(1 + 16 / 24)


def test_of_several_masks_those_outside_the_window_do_not_count():
    box = [16.0, 16, 32, 32]
    assert calibrated(box, mask_with((16, 16, 32, 32), (40, 40, 50, 50))) == pytest.approx(2)
    # one at columns 34 to 36 of the window, which ends at 36: both lie in a box of 20 x 16
    assert calibrated(box, mask_with((16, 16, 32, 32), (34, 20, 40, 22))) == pytest.approx(1 + 16 / 20)


def test_each_box_is_compared_with_the_mask_of_its_own_image():
    masks = torch.cat([mask_with(), mask_with((10, 10, 20, 20))])
    boxes = torch.tensor([[10.0, 10, 20, 20]] * 2)
    scores = calibrate(boxes, torch.tensor([0.5, 0.5]), torch.tensor([0, 1]), masks, 0)
    assert scores.tolist() == pytest.approx([0.5, 1.0])


def test_calibration_precedes_suppression_so_the_box_that_fits_the_mask_survives():
    anchors = torch.tensor([[10.0, 10, 20, 18], [10.0, 10, 20, 20]])
    logits = torch.where(mask_with((10, 10, 20, 20)), 5.0, -5.0)
    raw = maps([[0.75, 0.7]], mask=logits)
    assert decode_maps(raw, anchors, SETTINGS, SIZE, 0)[0].scores.tolist() == pytest.approx([0.75])
    found = decode_maps(raw, anchors, settings_with(calibrate=True), SIZE, 0)[0]
    assert found.boxes.tolist() == [[10, 10, 20, 20]]
    assert found.scores.tolist() == pytest.approx([1.4])


def test_calibration_has_no_effect_without_a_mask_branch():
    found = decode_maps(maps([[0.75]]), torch.tensor([[10.0, 10, 20, 20]]), settings_with(calibrate=True), SIZE, 0)[0]
    assert found.scores.tolist() == pytest.approx([0.75])


def test_the_mask_threshold_is_a_probability():
    mask = torch.where(mask_with((10, 10, 20, 20)), LOGIT_OF_3_4, -9.0)
    raw, anchors = maps([[0.5]], mask=mask), torch.tensor([[10.0, 10, 20, 20]])
    for threshold, score in ((0.7, 1.0), (0.8, 0.5)):
        chosen = settings_with(calibrate=True, mask_threshold=threshold)
        assert decode_maps(raw, anchors, chosen, SIZE, 0)[0].scores.tolist() == pytest.approx([score])


def test_each_prediction_carries_the_lesion_probability_of_its_image():
    logits = torch.stack([torch.zeros(4, 4), torch.full((4, 4), LOGIT_OF_3_4)])
    anchors = torch.tensor([[0.0, 0, 3, 3]])
    first, second = decode_maps(maps([[0.9], [0.8]], mask=logits), anchors, SETTINGS, (4, 4), 0)
    assert first.mask.unique().tolist() == [0.5]
    assert second.mask.unique().tolist() == pytest.approx([0.75])
    assert decode_maps(maps([[0.9]]), anchors, SETTINGS, (4, 4), 0)[0].mask is None


coordinate = st.floats(-6, 22, width=16)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(*[coordinate] * 4), min_size=1, max_size=5), st.integers(0, 2**32 - 1), st.floats(0, 0.3))
def test_the_mask_box_of_a_window_is_that_of_its_pixels(corners, seed, share):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(2, 13, 17, generator=generator) < share
    windows = torch.tensor([[min(a, c), min(b, d), max(a, c), max(b, d)] for a, b, c, d in corners])
    image = torch.randint(0, 2, (len(windows),), generator=generator)
    boxes, found = mask_boxes(windows, image, masks)
    for window, i, box, any_found in zip(windows.tolist(), image.tolist(), boxes.tolist(), found.tolist(), strict=True):
        inside = [
            (x, y)
            for y, x in masks[i].nonzero().tolist()
            if window[0] <= x <= window[2] and window[1] <= y <= window[3]
        ]
        assert any_found == bool(inside)
        if inside:
            xs, ys = zip(*inside, strict=True)
            assert box == [min(xs), min(ys), max(xs), max(ys)]
