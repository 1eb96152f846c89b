"""HU windows as further channels, worked out by hand."""

import torch
from test_network import network_with

from lesionpipe.detect.stored_slices import for_inference
from lesionpipe.detectors.windows import Windows

RANGE = (-1024, 1050)


def as_images(*hu: float) -> torch.Tensor:
    """One row of pixels in one slice, normalised as the slices are: (1, 1, 1, n)."""
    return ((torch.tensor(hu) + 1024) / 2074 * 2 - 1).reshape(1, 1, 1, -1)


def test_a_window_is_stretched_to_the_whole_range_and_cut_off_beyond():
    images = as_images(-1024, -160, 40, 140, 240, 1050)
    seen = Windows(((-160, 240),), RANGE)(images)
    assert torch.equal(seen[:, :1], images)
    torch.testing.assert_close(seen[0, 1, 0], torch.tensor([-1.0, -1.0, 0.0, 0.5, 1.0, 1.0]))


def test_each_window_adds_all_slices_once_more():
    images = torch.cat([as_images(0, 100), as_images(50, 150), as_images(-50, 20)], dim=1)
    seen = Windows(((-100, 100), (0, 200)), RANGE)(images)
    assert seen.shape == (1, 9, 1, 2)
    torch.testing.assert_close(seen[0, 3:, 0, 0], torch.tensor([0.0, 0.5, -0.5, -1.0, -0.5, -1.0]))


def test_without_windows_the_images_stay():
    images = as_images(-1024, 40)
    assert torch.equal(Windows((), RANGE)(images), images)


def test_a_network_in_bfloat16_tells_single_hu_apart():
    """bfloat16 holds -0.97 in steps of 1/256, 4 HU of the whole range: the window comes first."""
    network = for_inference(network_with(windows=((-1000, -900),), slices=1), "bf16")
    seen = []
    network.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    network(as_images(*range(-1000, -936)).expand(1, 1, 64, 64))
    assert seen[0].dtype == torch.bfloat16 and len(seen[0][0, 1, 0].unique()) == 64
