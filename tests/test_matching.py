"""Matching on anchors and lesions small enough to work out by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionpipe.core import boxes as box_math
from lesionpipe.detectors.interface import Targets
from lesionpipe.detectors.retinanet.losses import anchor_targets, match_anchors

LESION = [0.0, 0.0, 10.0, 10.0]


def anchor(width: float) -> list[float]:
    """Inside the lesion, 10 px high: its IoU with the lesion is width / 10."""
    return [0.0, 0.0, width, 10.0]


def match(anchors: torch.Tensor, lesions: torch.Tensor, image_size: tuple[int, int]):
    """Labels and nearest lesions of a single image."""
    labels, nearest = match_anchors(anchors, [lesions], image_size)
    return labels[0], nearest[0]


def test_anchors_are_positive_from_one_half_ignored_from_two_fifths_and_negative_below():
    anchors = torch.tensor([anchor(10), anchor(5), anchor(4.9), anchor(4), anchor(3.9), [20.0, 20.0, 30.0, 30.0]])
    labels, _ = match(anchors, torch.tensor([LESION]), (64, 64))
    assert labels.tolist() == [1, 1, -1, -1, 0, 0]
    assert labels.dtype == torch.int8


def test_a_lesion_that_meets_no_anchor_at_one_half_trains_nothing():
    labels, _ = match(torch.tensor([anchor(4.5), anchor(3)]), torch.tensor([LESION]), (64, 64))
    assert labels.tolist() == [-1, 0]


def test_an_anchor_whose_centre_lies_outside_the_image_is_ignored_even_if_it_fits():
    # side 20: the image ends at 19.5; the lesion reaches out of it, the anchors' centres are at 17, 19 and 21
    anchors = torch.tensor([[12.0, 0, 22, 10], [14.0, 0, 24, 10], [16.0, 0, 26, 10]])
    labels, _ = match(anchors, torch.tensor([[16.0, 0, 26, 10]]), (20, 20))
    assert labels.tolist() == [-1, 1, -1]  # IoU 6/14 = 0.43 is ignored, 8/12 positive, 1 but outside ignored


def test_height_and_width_of_the_image_are_not_mixed_up():
    anchors = torch.tensor([[20.0, 0, 30, 10], [0.0, 20, 10, 30]])
    labels, _ = match(anchors, anchors, (40, 20))
    assert labels.tolist() == [-1, 1]


def test_each_anchor_belongs_to_the_lesion_that_it_overlaps_most():
    lesions = torch.tensor([LESION, [2.0, 0, 12, 10], [40.0, 40, 50, 50]])
    labels, index = match(torch.tensor([[0.0, 0, 10, 10], [2.0, 0, 12, 10], [41.0, 40, 51, 50]]), lesions, (64, 64))
    assert labels.tolist() == [1, 1, 1]
    assert index.tolist() == [0, 1, 2]


def test_of_two_equally_near_lesions_the_first_counts():
    _, index = match(torch.tensor([anchor(10)]), torch.tensor([[30.0, 30, 40, 40], LESION, LESION]), (64, 64))
    assert index.tolist() == [1]


def test_without_lesions_every_anchor_inside_is_negative():
    labels, index = match(torch.tensor([anchor(5), [60.0, 60, 80, 80]]), torch.zeros(0, 4), (64, 64))
    assert labels.tolist() == [0, -1]
    assert index.tolist() == [0, 0]


def test_images_of_a_batch_match_as_they_do_alone():
    anchors = torch.tensor([anchor(10), anchor(4.5), [2.0, 0, 12, 10], [0.0, 0, 0.5, 0.5]])
    two, none, one = torch.tensor([LESION, [2.0, 0, 12, 10]]), torch.zeros(0, 4), torch.tensor([[2.0, 0, 12, 10]])
    labels, index = match_anchors(anchors, [two, none, one], (64, 64))
    for i, own in enumerate((two, none, one)):
        expected_labels, expected_index = match(anchors, own, (64, 64))
        assert torch.equal(labels[i], expected_labels)
        assert torch.equal(index[i], expected_index)
    assert labels[1].tolist() == [0, 0, 0, 0]


def test_targets_hold_the_offsets_of_each_positive_anchors_lesion_and_zeros_elsewhere():
    anchors = torch.tensor([[0.0, 0, 10, 20], [40.0, 40, 50, 50]])
    lesions = [torch.zeros(0, 4), torch.tensor([[1.0, 2, 11, 18]])]
    offsets = anchor_targets(anchors, Targets(lesions, None), (64, 64)).offsets
    # corner differences 1, 2, 1, -2 over width 10 and height 20, over 0.2
    assert offsets[0].eq(0).all()
    torch.testing.assert_close(offsets[1], torch.tensor([[0.5, 0.5, 0.5, -0.5], [0, 0, 0, 0]]))


sides = st.tuples(*[st.floats(0, 50, width=16) for _ in range(2)], *[st.floats(1, 30, width=16) for _ in range(2)])
box_lists = st.lists(sides.map(lambda s: [s[0], s[1], s[0] + s[2], s[1] + s[3]]), max_size=4)


@settings(max_examples=60, deadline=None)
@given(box_lists.filter(bool), box_lists)
def test_the_running_maximum_agrees_with_the_whole_table_of_overlaps(anchors, lesions):
    anchors, lesions = torch.tensor(anchors), torch.tensor(lesions).reshape(-1, 4)
    labels, index = match(anchors, lesions, (1000, 1000))
    for i in range(len(anchors)):
        overlaps = [box_math.iou(anchors[i], lesion).item() for lesion in lesions] or [0.0]
        best = max(overlaps)
        assert labels[i] == (1 if best >= 0.5 else -1 if best >= 0.4 else 0)
        assert index[i] == overlaps.index(best)
