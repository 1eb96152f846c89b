"""Boxes: areas, IoU in both pixel conventions, clipping – on numbers that can be checked by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lesionpipe.core import boxes

KINDS = [np.asarray, torch.as_tensor]


@pytest.mark.parametrize("kind", KINDS)
def test_iou_by_hand(kind):
    a = kind([[0.0, 0, 10, 10]])
    b = kind([[0.0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [0, 0, 5, 10]])
    assert boxes.pairwise_iou(a, b)[0].tolist() == pytest.approx([1, 50 / 150, 0, 0.5])


def test_iou_with_the_plus_one_pixel_convention():
    a, b = np.array([0.0, 0, 9, 9]), np.array([5.0, 0, 14, 9])  # ten pixels wide each, five shared
    assert boxes.iou(a, b, pixel=1) == pytest.approx(50 / 150)
    assert boxes.iou(a, b) == pytest.approx((4 * 9) / (81 + 81 - 36))


def test_two_points_without_extent_have_no_overlap_and_no_division_by_zero():
    point = np.array([3.0, 3, 3, 3])
    assert boxes.iou(point, point) == 0
    assert boxes.iou(point, point, pixel=1) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_clip_by_hand(kind):
    assert boxes.clip(kind([[-5.0, 2, 700, 400]]), 512, 300).tolist() == [[0, 2, 512, 300]]


numbers = st.floats(-500, 500)
sides = st.floats(0.5, 300)


@given(numbers, numbers, sides, sides, numbers, numbers, sides, sides)
def test_iou_is_symmetric_and_within_zero_and_one(x, y, w, h, ax, ay, aw, ah):
    a, b = np.array([x, y, x + w, y + h]), np.array([ax, ay, ax + aw, ay + ah])
    assert boxes.iou(a, b) == boxes.iou(b, a)
    assert 0 <= boxes.iou(a, b) <= 1 + 1e-12
