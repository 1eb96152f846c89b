"""RetinaNet: shapes in every combination of switches, precision, its interface, and its parts worked out by hand."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from lesionpipe.anchors.grid import AnchorSet, anchors_for, level_numbers, paper_set, retinanet_set, strides_of
from lesionpipe.core.errors import UserError
from lesionpipe.detect.stored_slices import for_inference
from lesionpipe.detectors.build import build_detector
from lesionpipe.detectors.interface import DecodingSettings, Float32Conv2d, Targets, single_process
from lesionpipe.detectors.retinanet.heads import Head
from lesionpipe.detectors.retinanet.network import AttentionGate, Pyramid
from lesionpipe.params import load_params

DEFAULTS = load_params(Path(__file__).parents[1] / "params.yaml")
NETWORK = DEFAULTS.network
PARAMS = NETWORK.model_copy(
    update={"backbone": "small", "weights": None, "channels": 16, "head_depth": 1, "head_channels": 24}
)
BACKBONES = ("small", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet50")
ROWS = {
    "original": {"levels": "P3-P7", "mask_branch": False, "attention": False},
    "dense": {"levels": "P2-P6", "mask_branch": True, "attention": False},
    "attention": {"levels": "P2-P6", "mask_branch": True, "attention": True},
}
SWITCHES = tuple(itertools.product(("P2-P6", "P3-P7"), (False, True), (False, True, "pyramid", "mask")))


DECODING = DecodingSettings(0.0, 100, 0.5, 100, calibrate=True, mask_threshold=0.5)
LESION = torch.tensor([[16.0, 16, 47, 47]])


def images_of(slices=3, image_size=64):
    return DEFAULTS.preprocess.model_copy(update={"slices": slices, "image_size": image_size})


def detector_with(slices=3, anchors=paper_set, image_size=64, **changes):
    """A RetinaNet with random weights; `anchors` makes the set of the levels."""
    torch.manual_seed(0)
    params = PARAMS.model_copy(update=changes)
    anchor_set = anchors(level_numbers(params.levels)).scaled(image_size / 512)
    return build_detector(params, images_of(slices, image_size), anchor_set).eval()


def network_with(**changes):
    """The network of `detector_with`: images -> raw maps."""
    return detector_with(**changes).network


def check_maps(raw, params, anchor_set, height, width):
    anchors = len(anchors_for(anchor_set, height, width))
    assert raw.logits.shape == (2, anchors)
    assert raw.offsets.shape == (2, anchors, 4)
    assert sum(raw.level_sizes) == anchors
    assert (raw.mask_logits is not None) == params["mask_branch"]
    if params["mask_branch"]:
        assert raw.mask_logits.shape == (2, height, width)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_in_every_row_of_the_paper_answers_for_every_anchor(backbone, row):
    network = network_with(backbone=backbone, **ROWS[row])
    with torch.no_grad():
        raw = network(torch.zeros(2, 3, 64, 64))
    levels = level_numbers(PARAMS.model_copy(update=ROWS[row]).levels)
    check_maps(raw, ROWS[row], paper_set(levels), 64, 64)


@pytest.mark.parametrize(("levels", "mask_branch", "attention"), SWITCHES)
@pytest.mark.parametrize(("height", "width"), [(64, 64), (65, 90), (33, 47), (100, 71)])
def test_every_switch_works_alone_at_any_size(levels, mask_branch, attention, height, width):
    switches = {"levels": levels, "mask_branch": mask_branch, "attention": attention}
    network = network_with(anchors=retinanet_set, **switches)
    with torch.no_grad():
        raw = network(torch.zeros(2, 3, height, width))
    check_maps(raw, switches, retinanet_set(level_numbers(PARAMS.model_copy(update=switches).levels)), height, width)


@pytest.mark.parametrize(
    ("attention", "pyramid", "mask"), [(True, 3, 1), (False, 0, 0), ("pyramid", 3, 0), ("mask", 0, 1)]
)
def test_gates_stand_in_the_pyramid_in_the_mask_branch_or_in_both(attention, pyramid, mask):
    """P2–P6 has three skip connections that are added to a coarser level: C2, C3 and C4; the branch has that of C1."""
    network = network_with(mask_branch=True, attention=attention)
    assert len(network.pyramid.gates) == pyramid
    assert sum(isinstance(module, AttentionGate) for module in network.segmentation.modules()) == mask
    assert sum(isinstance(module, AttentionGate) for module in network.modules()) == pyramid + mask


def test_the_docs_tell_the_parameters_of_the_papers_rows(root):
    changes = YAML(typ="safe", pure=True).load((root / "presets" / "deeplesion.yaml").read_text())["network"]
    preset = PARAMS.model_validate({**NETWORK.model_dump(), **changes})
    lines = (root / "docs" / "detectors.md").read_text().splitlines()
    rows = zip(("original", "original", "dense", "attention"), (9, 15, 15, 15), strict=True)
    labels = ("original RetinaNet", "+ anchor optimisation", "+ dense supervision", "+ attention gate")
    for label, (row, per_cell) in zip(labels, rows, strict=True):
        params = preset.model_copy(update={**ROWS[row], "weights": None})
        anchors = (paper_set if per_cell == 15 else retinanet_set)(level_numbers(params.levels))
        detector = build_detector(params, images_of(), anchors)
        count = f"{sum(p.numel() for p in detector.parameters()) / 1e6:.2f} M"
        assert any(line.startswith(f"| {label} | {count} |") for line in lines), f"{label}: {count}"


@pytest.mark.parametrize("slices", [1, 3, 9])
def test_any_number_of_slices(slices):
    network = network_with(slices=slices, backbone="vgg16_bn", mask_branch=True, attention=True)
    with torch.no_grad():
        assert network(torch.zeros(1, slices, 64, 64)).mask_logits.shape == (1, 64, 64)


def test_level_sizes_are_the_levels_cells_times_the_anchors_of_a_cell():
    def six_per_cell(levels):
        return AnchorSet((8.0,) * 5, (1.0, 2.0), (0.5, 1.0, 2.0), strides_of(levels))

    with torch.no_grad():
        raw = network_with(levels="P2-P6", anchors=six_per_cell)(torch.zeros(1, 3, 64, 64))
    assert raw.level_sizes == (6 * 256, 6 * 64, 6 * 16, 6 * 4, 6 * 1)


def test_training_and_use_give_the_same_kind_of_answer():
    network = network_with(mask_branch=True)
    images = torch.zeros(2, 3, 64, 64)
    assert type(network.train()(images)) is type(network.eval()(images))


@pytest.mark.parametrize("backbone", ["vgg16_bn", "resnet50"])
def test_fresh_networks_expect_lesions_with_the_prior_of_one_hundredth(backbone):
    with torch.no_grad():
        raw = network_with(mask_branch=True, backbone=backbone)(torch.randn(1, 3, 64, 64))
    assert raw.logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    assert raw.mask_logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.1)
    assert raw.offsets.abs().mean().item() < 0.1


@pytest.mark.parametrize(
    ("backbone", "attention"),
    [("small", True), ("vgg16_bn", True), ("resnet50", True), ("small", "pyramid"), ("small", "mask")],
)
def test_every_parameter_gets_a_gradient(backbone, attention):
    network = network_with(mask_branch=True, attention=attention, backbone=backbone).train()
    raw = network(torch.randn(2, 3, 64, 64))
    (raw.logits.square().sum() + raw.offsets.square().sum() + raw.mask_logits.square().sum()).backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_channels_last_changes_no_number():
    images = torch.randn(1, 3, 64, 64)
    network = network_with(mask_branch=True, attention=True)
    with torch.no_grad():
        expected = network(images)
        raw = network.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(raw.logits, expected.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(raw.offsets, expected.offsets, atol=1e-4, rtol=1e-4)


# made ready for use --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backbone", ["small", "vgg16_bn", "resnet50"])
def test_a_detector_made_ready_for_use_answers_the_same_without_batch_norms(backbone):
    detector = detector_with(backbone=backbone, mask_branch=True, attention=True)
    for module in detector.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    images = torch.randn(1, 3, 64, 64)
    ready = for_inference(detector, "32")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in ready.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in detector.modules())
    with torch.no_grad():
        expected, raw = detector.network(images), ready.network(images)
    torch.testing.assert_close(raw.logits, expected.logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(raw.mask_logits, expected.mask_logits, atol=1e-3, rtol=1e-3)


def test_a_detector_made_ready_in_bf16_answers_nearly_the_same():
    detector, images = detector_with(mask_branch=True, attention=True), torch.randn(1, 3, 64, 64)
    ready = for_inference(detector, "bf16")
    predicting = {id(p) for m in ready.modules() if isinstance(m, Float32Conv2d) for p in m.parameters()}
    assert len(predicting) == 6  # weights and biases of both heads and of the mask
    for parameter in ready.parameters():
        assert parameter.dtype == (torch.float32 if id(parameter) in predicting else torch.bfloat16)
    assert torch.equal(ready.anchors, detector.anchors)
    with torch.no_grad():
        torch.testing.assert_close(ready.network(images).logits, detector.network(images).logits, atol=0.05, rtol=0)


@pytest.mark.parametrize("way", ["autocast", "for_inference"])
def test_in_bf16_nearly_every_anchor_has_a_score_of_its_own(way):
    detector, images = detector_with(mask_branch=True, attention=True), torch.randn(2, 3, 64, 64)
    torch.nn.init.normal_(detector.network.classification.layers[-1].weight, std=0.1)  # as spread as after training
    ready = for_inference(detector, "bf16") if way == "for_inference" else detector
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        raw = ready.network(images)
        predictions = ready.predict(images, DECODING)
    for maps in raw[:3]:
        assert maps.dtype == torch.float32
        assert maps.unique().numel() > 0.99 * maps.numel()
    scores = torch.cat([prediction.scores for prediction in predictions])
    assert scores.dtype == torch.float32 and scores.unique().numel() >= 0.99 * len(scores) > 100


# the interface -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask_branch", [False, True])
def test_losses_are_those_that_the_detector_names_and_train_every_weight(mask_branch):
    detector = detector_with(mask_branch=mask_branch, attention=True).train()
    assert detector.loss_names == ("classification", "box", "mask")[: 2 + mask_branch]
    masks = [torch.ones(1, 64, 64, dtype=torch.bool), torch.zeros(0, 64, 64, dtype=torch.bool)]
    targets = Targets([LESION, torch.zeros(0, 4)], masks if mask_branch else None)
    losses = detector.losses(torch.randn(2, 3, 64, 64), targets, single_process)
    assert tuple(losses) == detector.loss_names
    assert all(loss.shape == () and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in detector.named_parameters() if p.grad is None] == []


def test_losses_divide_by_what_the_processes_share():
    detector = detector_with(mask_branch=True).train()
    images, counted = torch.randn(1, 3, 64, 64), []
    targets = Targets([LESION], [torch.ones(1, 64, 64, dtype=torch.uint8)])

    def share(counts):
        counted.append(counts.tolist())
        return counts * 2

    alone, shared = detector.losses(images, targets, single_process), detector.losses(images, targets, share)
    ((positives, pixels),) = counted
    assert positives > 0 and pixels == 64 * 64
    assert {name: loss.item() for name, loss in shared.items()} == pytest.approx(
        {name: loss.item() / 2 for name, loss in alone.items()}, rel=1e-5
    )


def test_a_mask_branch_without_masks_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="targets hold no masks"):
        detector_with(mask_branch=True).losses(torch.zeros(1, 3, 64, 64), Targets([LESION], None), single_process)


@pytest.mark.parametrize("mask_branch", [False, True])
def test_predictions_are_float32_best_first_and_without_gradients(mask_branch):
    detector, images = detector_with(mask_branch=mask_branch), torch.randn(2, 3, 64, 64)
    for prediction in detector.predict(images, DECODING, torch.tensor([[1.0, 2.0], [0.5, 0.5]])):
        assert prediction.boxes.shape == (len(prediction.scores), 4)
        assert prediction.scores.tolist() == sorted(prediction.scores.tolist(), reverse=True)
        assert not prediction.boxes.requires_grad and prediction.boxes.dtype == torch.float32
        if mask_branch:
            assert prediction.mask.shape == (64, 64) and ((prediction.mask > 0) & (prediction.mask < 1)).all()
        else:
            assert prediction.mask is None


def test_images_of_another_size_get_anchors_of_their_own():
    detector = detector_with(levels="P3-P7", mask_branch=False)
    (prediction,) = detector.predict(torch.randn(1, 3, 40, 96), DECODING)
    assert prediction.boxes[:, 0::2].max() > 64 and prediction.boxes[:, 1::2].max() <= 39.5
    anchors = torch.from_numpy(anchors_for(detector.anchor_set, 40, 96))
    right = anchors[(anchors[:, 0] > 64) & (anchors[:, 2] < 96)][:1]  # beyond the square of 64 px
    assert detector.losses(torch.zeros(1, 3, 40, 96), Targets([right], None), single_process)["box"] > 0


def test_the_weights_hold_no_anchors_and_anchors_stay_where_they_are_in_every_precision():
    detector = detector_with()
    assert not any("anchors" in name for name in detector.state_dict())
    assert detector.anchors.dtype == torch.float32
    assert len(detector.anchors) == 15 * (16**2 + 8**2 + 4**2 + 2**2 + 1)


def test_anchors_of_other_levels_are_refused():
    params = PARAMS.model_copy(update={"levels": "P3-P7"})
    with pytest.raises(UserError, match=r"strides \[4, 8, 16, 32, 64\], but network.levels = P3-P7 has \[8, 16"):
        build_detector(params, images_of(), paper_set((2, 3, 4, 5, 6)))


# the head's order ----------------------------------------------------------------------------------------------------


def test_the_head_answers_level_by_level_row_by_row_anchor_by_anchor():
    head = Head(channels=1, hidden_channels=1, depth=0, per_cell=2, outputs_per_anchor=4)
    with torch.no_grad():  # output v of anchor k is 10 times the cell's number plus 4 k + v
        head.layers[0].weight.zero_()
        head.layers[0].weight[:, 0, 1, 1] = 10
        head.layers[0].bias.copy_(torch.arange(8.0))
        answers = head([torch.arange(6.0).reshape(1, 1, 2, 3), torch.tensor([[[[6.0]]]])])
    expected = [[10 * cell + 4 * k + v for v in range(4)] for cell in range(7) for k in range(2)]
    assert answers[0].tolist() == expected


@pytest.mark.parametrize(("channels", "std"), [(256, 0.01), (64, 0.02)])
def test_head_weights_start_at_retinanets_std_for_its_channels(channels, std):
    torch.manual_seed(0)
    head = Head(channels, channels, depth=1, per_cell=15, outputs_per_anchor=4)
    assert head.layers[0].weight.std().item() == pytest.approx(std, rel=0.02)


def test_the_std_of_each_head_convolution_is_that_of_its_own_input():
    torch.manual_seed(0)
    head = Head(64, 256, depth=2, per_cell=3, outputs_per_anchor=1)
    assert [layer.weight.std().item() for layer in head.layers[::2]] == pytest.approx([0.02, 0.01, 0.01], rel=0.1)


# the pyramid ---------------------------------------------------------------------------------------------------------


def test_the_pyramid_adds_the_upsampled_coarser_level_to_the_skip():
    pyramid = Pyramid((1, 1, 1, 1, 1), channels=1, first=4, last=5, attention=False)
    for convolution in (*pyramid.skip_convs, *pyramid.output_convs):
        torch.nn.init.dirac_(convolution.weight)
    c4, c5 = torch.tensor([[[[1.0, 2, 3]]]]), torch.tensor([[[[10.0, 20]]]])
    p4, p5 = pyramid([c4] * 4 + [c5])
    assert p5.flatten().tolist() == [10, 20]
    assert p4.flatten().tolist() == [11, 12, 23]


def test_p7_is_a_relu_and_a_convolution_on_p6():
    pyramid = Pyramid((1, 1, 1, 1, 1), channels=1, first=5, last=7, attention=False)
    for convolution in pyramid.extra_levels:
        torch.nn.init.dirac_(convolution.weight)
    _, p6, p7 = pyramid([torch.tensor([[[[-1.0, 2, 3, 4, 5]]]])] * 5)
    assert p6.flatten().tolist() == [-1, 3, 5]  # every second place
    assert p7.flatten().tolist() == [0, 5]


# the attention gate --------------------------------------------------------------------------------------------------


def test_the_gate_follows_its_formula():
    gate = AttentionGate(skip_channels=2, gating_channels=1)
    attention = gate.attention
    with torch.no_grad():
        attention.theta.weight[0].copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1))
        attention.phi.weight[0].fill_(2)
        attention.phi.bias.fill_(0.5)
        attention.psi.weight.zero_()[:, 0] = 3  # of the inner channels the first alone counts
        attention.psi.bias.fill_(-1)
        skip = torch.tensor([3.0, 1, 0, 5, 2, 2]).reshape(1, 2, 1, 3)  # two channels: 3 1 0 and 5 2 2
        coarse = torch.tensor([1.0, 0.25]).reshape(1, 1, 1, 2)  # upsampled to 1 1 0.25
        gated = gate(skip, coarse)
    # relu(3-5+2.5) = 0.5, relu(1-2+2.5) = 1.5, relu(0-2+1) = 0; then 3 x - 1 through a sigmoid
    alpha = [1 / (1 + math.exp(-x)) for x in (0.5, 3.5, -1)]
    expected = [3 * alpha[0], alpha[1], 0, 5 * alpha[0], 2 * alpha[1], 2 * alpha[2]]
    assert gated.flatten().tolist() == pytest.approx(expected)


def test_gating_before_and_after_upsampling_is_the_same():
    attention = AttentionGate(4, 4).attention_map
    skip, coarse = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)
    upsampled = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(attention(skip, coarse), attention(skip, upsampled))


def test_a_new_gate_passes_nearly_all_of_the_skip():
    with torch.no_grad():
        attention = AttentionGate(8, 8).attention_map(torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2))
    assert attention.mean().item() == pytest.approx(0.88, abs=0.02)
