"""The box code of anchors, worked out by hand, and its inverse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lesionpipe.detectors.retinanet.network import decode_boxes, encode_boxes

KINDS = [np.asarray, torch.as_tensor]


@pytest.mark.parametrize("kind", KINDS)
def test_encode_by_hand(kind):
    anchor, box = kind([[10.0, 10, 30, 50]]), kind([[12.0, 6, 34, 58]])
    # (2, -4, 4, 8) over (20, 40, 20, 40) over 0.2
    assert encode_boxes(box, anchor)[0].tolist() == pytest.approx([0.5, -0.5, 1.0, 1.0])


numbers = st.floats(-500, 500)
sides = st.floats(0.5, 300)


@given(numbers, numbers, sides, sides, numbers, numbers, sides, sides)
def test_decode_inverts_encode(x, y, w, h, ax, ay, aw, ah):
    box, anchor = np.array([x, y, x + w, y + h]), np.array([ax, ay, ax + aw, ay + ah])
    np.testing.assert_allclose(decode_boxes(encode_boxes(box, anchor), anchor), box, atol=1e-6)
