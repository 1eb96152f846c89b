"""Losses worked out by hand, and parity of the focal loss with torchvision's."""

import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from lesionpipe.detectors.interface import Targets, single_process
from lesionpipe.detectors.retinanet.losses import (
    AnchorTargets,
    anchor_targets,
    count_targets,
    detection_losses,
    focal_loss,
)
from lesionpipe.detectors.retinanet.network import RawMaps

LN2 = math.log(2)


def raw(logits, offsets=None, masks=None) -> RawMaps:
    logits = torch.tensor(logits)
    offsets = torch.zeros(*logits.shape, 4) if offsets is None else torch.tensor(offsets)
    return RawMaps(logits, offsets, None if masks is None else torch.tensor(masks), (logits.shape[1],))


def targets(labels, boxes=None, masks=None) -> AnchorTargets:
    labels = torch.tensor(labels, dtype=torch.int8)
    boxes = torch.zeros(*labels.shape, 4) if boxes is None else torch.tensor(boxes)
    return AnchorTargets(labels, boxes, None if masks is None else torch.tensor(masks, dtype=torch.bool))


def losses_of(prediction: RawMaps, truth: AnchorTargets) -> dict[str, torch.Tensor]:
    """The losses of a batch that one process has to itself."""
    return detection_losses(prediction, truth, single_process(count_targets(truth)))


def test_focal_loss_of_a_logit_of_zero():
    # p = 1/2: alpha_t * (1/2)^2 * ln 2
    loss = focal_loss(torch.zeros(2), torch.tensor([True, False]))
    assert loss.tolist() == pytest.approx([0.25 * 0.25 * LN2, 0.75 * 0.25 * LN2])


def test_focal_loss_at_three_quarters():
    # logit ln 3 is p = 3/4
    loss = focal_loss(torch.full((2,), math.log(3)), torch.tensor([True, False]))
    assert loss.tolist() == pytest.approx([0.25 / 16 * math.log(4 / 3), 0.75 * 9 / 16 * math.log(4)])


def test_focal_loss_and_its_gradient_agree_with_torchvision():
    torch.manual_seed(0)
    ours = (torch.randn(1000) * 5).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    truth = torch.rand(1000) < 0.3
    loss = focal_loss(ours, truth)
    expected = sigmoid_focal_loss(theirs, truth.float(), alpha=0.25, gamma=2)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    loss.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)


def test_focal_loss_stays_finite_for_huge_logits():
    logits = torch.tensor([1e4, -1e4, 1e4, -1e4], requires_grad=True)
    loss = focal_loss(logits, torch.tensor([True, True, False, False]))
    assert loss.tolist() == pytest.approx([0, 2500, 7500, 0])
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_smooth_l1_turns_at_one_ninth():
    # 0.5 * 9 * d^2 up to 1/9, d - 1/18 beyond; both are 1/18 at the turn
    distances = (0.0, 0.1, -0.1, 1 / 9, 1.0, -2.0)
    losses = [losses_of(raw([[0.0]], [[[d, 0.0, 0.0, 0.0]]]), targets([[1]]))["box"].item() for d in distances]
    assert losses == pytest.approx([0, 0.045, 0.045, 1 / 18, 1 - 1 / 18, 2 - 1 / 18])


def test_classification_is_summed_over_what_is_not_ignored_and_divided_by_the_positives():
    losses = losses_of(raw([[0.0, 0.0, 0.0, 9.0]]), targets([[1, 1, 0, -1]]))
    assert losses["classification"].item() == pytest.approx((2 * 0.25 + 0.75) * 0.25 * LN2 / 2)


def test_the_box_loss_sees_positive_anchors_only():
    offsets = [[[1.0, 0, 0, 0], [5.0, 5, 5, 5], [5.0, 5, 5, 5]]]
    boxes = [[[0.0, 0, 0, 1], [0.0, 0, 0, 0], [0.0, 0, 0, 0]]]
    losses = losses_of(raw([[0.0, 0.0, 0.0]], offsets), targets([[1, 0, -1]], boxes))
    assert losses["box"].item() == pytest.approx(2 * (1 - 1 / 18))


def test_the_number_of_positives_is_that_of_the_batch():
    offsets = [[[1.0, 0, 0, 0]], [[0.0, 0, 0, 0]]]
    losses = losses_of(raw([[0.0], [0.0]], offsets), targets([[1], [1]]))
    assert losses["box"].item() == pytest.approx((1 - 1 / 18) / 2)


def test_the_mask_loss_is_divided_by_the_lesion_pixels():
    masks = torch.zeros(1, 2, 2).tolist()
    losses = losses_of(raw([[0.0]], masks=masks), targets([[0]], masks=[[[1, 1], [0, 0]]]))
    assert losses["mask"].item() == pytest.approx((2 * 0.25 + 2 * 0.75) * 0.25 * LN2 / 2)


def test_images_without_lesions_give_finite_losses_divided_by_one():
    prediction = raw([[0.0, 0.0]], masks=torch.zeros(1, 2, 2).tolist())
    losses = losses_of(prediction, targets([[0, 0]], masks=[[[0, 0], [0, 0]]]))
    assert losses["classification"].item() == pytest.approx(2 * 0.75 * 0.25 * LN2)
    assert losses["box"].item() == 0
    assert losses["mask"].item() == pytest.approx(4 * 0.75 * 0.25 * LN2)


def test_a_network_without_a_mask_branch_has_no_mask_loss():
    assert set(losses_of(raw([[0.0]]), targets([[1]]))) == {"classification", "box"}


def test_losses_are_float32_inside_autocast_and_from_half_maps():
    maps = RawMaps(torch.zeros(1, 1).bfloat16(), torch.ones(1, 1, 4).bfloat16(), torch.zeros(1, 2, 2).bfloat16(), (1,))
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(maps, targets([[1]], masks=[[[1, 0], [0, 0]]]))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert losses["box"].item() == pytest.approx(4 * (1 - 1 / 18))


def test_halves_of_a_batch_with_shared_counts_average_to_the_whole_batchs_losses():
    prediction = raw([[0.3, -1.0], [2.0, 0.1]], torch.rand(2, 2, 4).tolist(), torch.randn(2, 2, 2).tolist())
    truth = targets([[1, 0], [1, 1]], masks=[[[1, 0], [0, 0]], [[1, 1], [0, 1]]])
    whole = losses_of(prediction, truth)
    shared = count_targets(truth).clamp(min=1) / 2
    halves = []
    for i in (0, 1):
        own_raw, own_truth = (m[i : i + 1] for m in prediction[:3]), (t[i : i + 1] for t in truth)
        halves.append(detection_losses(RawMaps(*own_raw, (2,)), AnchorTargets(*own_truth), shared))
    for name, loss in whole.items():
        assert loss.item() == pytest.approx((halves[0][name] + halves[1][name]).item() / 2, rel=1e-5)


def test_targets_of_a_batch_with_and_without_lesions():
    anchors = torch.tensor([[0.0, 0, 10, 10], [20.0, 20, 30, 30]])
    lesions = [torch.tensor([[1.0, 0, 11, 10]]), torch.zeros(0, 4)]
    built = anchor_targets(anchors, Targets(lesions, [torch.zeros(1, 32, 32), torch.zeros(0, 32, 32)]), (32, 32))
    assert built.labels.tolist() == [[1, 0], [0, 0]]
    assert built.offsets[0, 0].tolist() == pytest.approx([0.5, 0, 0.5, 0])
    assert count_targets(built).tolist() == [1, 0]


def test_a_batch_entirely_without_lesions_can_be_built():
    built = anchor_targets(torch.tensor([[0.0, 0, 10, 10]]), Targets([torch.zeros(0, 4)], None), (32, 32))
    assert built.labels.tolist() == [[0]]
    assert built.mask is None


def test_the_masks_of_an_images_lesions_are_joined():
    two = torch.tensor([[[1, 0], [0, 0]], [[1, 1], [0, 0]]], dtype=torch.uint8)
    masks = [two, torch.zeros(0, 2, 2, dtype=torch.uint8), two[:1].bool()]
    joined = anchor_targets(torch.zeros(1, 4), Targets([torch.zeros(0, 4)] * 3, masks), (2, 2)).mask
    assert joined.dtype == torch.bool
    assert joined.int().tolist() == [[[1, 1], [0, 0]], [[0, 0], [0, 0]], [[1, 0], [0, 0]]]


@pytest.mark.parametrize(
    ("prediction", "truth", "words"),
    [
        (raw([[0.0, 0.0]]), targets([[1]]), r"anchors: \(1, 2\) predicted, \(1, 1\) in the targets"),
        (
            raw([[0.0]], masks=[[[0.0]]]),
            targets([[1]], masks=[[[0, 0]]]),
            r"masks: \(1, 1, 1\) predicted, \(1, 1, 2\) in",
        ),
    ],
)
def test_maps_and_targets_that_disagree_are_refused(prediction, truth, words):
    with pytest.raises(ValueError, match=words):
        losses_of(prediction, truth)
