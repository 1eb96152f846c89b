"""The network's shapes in every combination of switches, the gate's formula, and what the switches leave alone."""

import itertools
import math
from pathlib import Path

import pytest
import torch

from lesionpipe.anchors.grid import anchors_for, level_numbers, paper_set, retinanet_set
from lesionpipe.detectors.inference import for_inference
from lesionpipe.detectors.retinanet.attention import AttentionGate, AttentionMap, OpenGate
from lesionpipe.detectors.retinanet.heads import Head
from lesionpipe.detectors.retinanet.network import build_network
from lesionpipe.detectors.retinanet.pyramid import Pyramid
from lesionpipe.params import load_params

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml").network.model_copy(
    update={"backbone": "small", "weights": None, "channels": 16, "head_depth": 1, "head_channels": 24}
)
BACKBONES = ("small", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet50")
ROWS = {
    "original": {"levels": "P3-P7", "mask_branch": False, "attention": False},
    "dense": {"levels": "P2-P6", "mask_branch": True, "attention": False},
    "attention": {"levels": "P2-P6", "mask_branch": True, "attention": True},
}
SWITCHES = tuple(itertools.product(("P2-P6", "P3-P7"), (False, True), (False, True)))


def network_with(slices=3, per_cell=15, **changes):
    torch.manual_seed(0)
    return build_network(PARAMS.model_copy(update=changes), slices, per_cell).eval()


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
    network = network_with(per_cell=9, **switches)
    with torch.no_grad():
        raw = network(torch.zeros(2, 3, height, width))
    check_maps(raw, switches, retinanet_set(level_numbers(PARAMS.model_copy(update=switches).levels)), height, width)


def test_the_docs_tell_the_parameters_of_the_papers_rows(root):
    preset = load_params(root / "presets" / "deeplesion.yaml").network
    lines = (root / "docs" / "detector.md").read_text().splitlines()
    rows = zip(("original", "original", "dense", "attention"), (9, 15, 15, 15), strict=True)
    labels = ("original RetinaNet", "+ anchor optimisation", "+ dense supervision", "+ attention gate")
    for label, (row, per_cell) in zip(labels, rows, strict=True):
        network = build_network(preset.model_copy(update={**ROWS[row], "weights": None}), 3, per_cell)
        count = f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M"
        assert any(line.startswith(f"| {label} | {count} |") for line in lines), f"{label}: {count}"


@pytest.mark.parametrize("slices", [1, 3, 9])
def test_any_number_of_slices(slices):
    network = network_with(slices=slices, backbone="vgg16_bn", mask_branch=True, attention=True)
    with torch.no_grad():
        assert network(torch.zeros(1, slices, 64, 64)).mask_logits.shape == (1, 64, 64)


def test_level_sizes_are_the_levels_cells_times_the_anchors_of_a_cell():
    with torch.no_grad():
        raw = network_with(levels="P2-P6", per_cell=6)(torch.zeros(1, 3, 64, 64))
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


@pytest.mark.parametrize("backbone", ["small", "vgg16_bn", "resnet50"])
def test_every_parameter_gets_a_gradient(backbone):
    network = network_with(mask_branch=True, attention=True, backbone=backbone).train()
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


@pytest.mark.parametrize("backbone", ["small", "vgg16_bn", "resnet50"])
def test_a_network_made_ready_for_use_answers_the_same_without_batch_norms(backbone):
    network = network_with(backbone=backbone, mask_branch=True, attention=True)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, std=0.1)
    images = torch.randn(1, 3, 64, 64)
    ready = for_inference(network, "32")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in ready.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        expected, raw = network(images), ready(images)
    torch.testing.assert_close(raw.logits, expected.logits, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(raw.mask_logits, expected.mask_logits, atol=1e-3, rtol=1e-3)


def test_a_network_made_ready_in_bf16_answers_nearly_the_same():
    network, images = network_with(mask_branch=True, attention=True), torch.randn(1, 3, 64, 64)
    ready = for_inference(network, "bf16")
    assert {p.dtype for p in ready.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        torch.testing.assert_close(ready(images).logits.float(), network(images).logits, atol=0.05, rtol=0)


# the head's order ----------------------------------------------------------------------------------------------------


def test_the_head_answers_level_by_level_row_by_row_anchor_by_anchor():
    head = Head(channels=1, hidden_channels=1, depth=0, per_cell=2, values=4)
    with torch.no_grad():  # value v of anchor k is 10 times the cell's number plus 4 k + v
        head.layers[0].weight.zero_()
        head.layers[0].weight[:, 0, 1, 1] = 10
        head.layers[0].bias.copy_(torch.arange(8.0))
        answers = head([torch.arange(6.0).reshape(1, 1, 2, 3), torch.tensor([[[[6.0]]]])])
    expected = [[10 * cell + 4 * k + v for v in range(4)] for cell in range(7) for k in range(2)]
    assert answers[0].tolist() == expected


@pytest.mark.parametrize(("channels", "std"), [(256, 0.01), (64, 0.02)])
def test_head_weights_start_at_retinanets_std_for_its_channels(channels, std):
    torch.manual_seed(0)
    head = Head(channels, channels, depth=1, per_cell=15, values=4)
    assert head.layers[0].weight.std().item() == pytest.approx(std, rel=0.02)


def test_the_std_of_each_head_convolution_is_that_of_its_own_input():
    torch.manual_seed(0)
    head = Head(64, 256, depth=2, per_cell=3, values=1)
    assert [layer.weight.std().item() for layer in head.layers[::2]] == pytest.approx([0.02, 0.01, 0.01], rel=0.1)


# the pyramid ---------------------------------------------------------------------------------------------------------


def test_the_pyramid_adds_the_upsampled_coarser_level_to_the_skip():
    pyramid = Pyramid((1, 1, 1, 1, 1), channels=1, first=4, last=5, attention=False)
    for convolution in (*pyramid.lateral, *pyramid.smooth):
        torch.nn.init.dirac_(convolution.weight)
    c4, c5 = torch.tensor([[[[1.0, 2, 3]]]]), torch.tensor([[[[10.0, 20]]]])
    p4, p5 = pyramid([c4] * 4 + [c5])
    assert p5.flatten().tolist() == [10, 20]
    assert p4.flatten().tolist() == [11, 12, 23]


def test_p7_is_a_relu_and_a_convolution_on_p6():
    pyramid = Pyramid((1, 1, 1, 1, 1), channels=1, first=5, last=7, attention=False)
    for convolution in pyramid.coarse:
        torch.nn.init.dirac_(convolution.weight)
    _, p6, p7 = pyramid([torch.tensor([[[[-1.0, 2, 3, 4, 5]]]])] * 5)
    assert p6.flatten().tolist() == [-1, 3, 5]  # every second place
    assert p7.flatten().tolist() == [0, 5]


# the attention gate --------------------------------------------------------------------------------------------------


def test_the_gate_follows_its_formula():
    gate = AttentionGate(skip_channels=2, gating_channels=1, inner_channels=1)
    attention = gate.attention
    with torch.no_grad():
        attention.theta.weight.copy_(torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1))
        attention.phi.weight.fill_(2)
        attention.phi.bias.fill_(0.5)
        attention.psi.weight.fill_(3)
        attention.psi.bias.fill_(-1)
        skip = torch.tensor([3.0, 1, 0, 5, 2, 2]).reshape(1, 2, 1, 3)  # two channels: 3 1 0 and 5 2 2
        coarse = torch.tensor([1.0, 0.25]).reshape(1, 1, 1, 2)  # upsampled to 1 1 0.25
        gated = gate(skip, coarse)
    # relu(3-5+2.5) = 0.5, relu(1-2+2.5) = 1.5, relu(0-2+1) = 0; then 3 x - 1 through a sigmoid
    alpha = [1 / (1 + math.exp(-x)) for x in (0.5, 3.5, -1)]
    expected = [3 * alpha[0], alpha[1], 0, 5 * alpha[0], 2 * alpha[1], 2 * alpha[2]]
    assert gated.flatten().tolist() == pytest.approx(expected)


def test_gating_before_and_after_upsampling_is_the_same():
    attention = AttentionMap(4, 4, 2)
    skip, coarse = torch.randn(1, 4, 6, 6), torch.randn(1, 4, 3, 3)
    upsampled = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(attention(skip, coarse), attention(skip, upsampled))


def test_a_fresh_gate_is_nearly_open():
    with torch.no_grad():
        attention = AttentionMap(8, 8, 8)(torch.randn(1, 8, 4, 4), torch.randn(1, 8, 2, 2))
    assert attention.mean().item() == pytest.approx(0.88, abs=0.02)


def test_without_attention_the_skip_passes_as_it_is():
    skip = torch.randn(1, 2, 4, 4)
    assert OpenGate()(skip, torch.randn(1, 2, 2, 2)) is skip


def test_attention_maps_can_be_looked_at():
    maps = network_with(mask_branch=True, attention=True).attention_maps(torch.zeros(2, 3, 64, 64))
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        "C1": (2, 1, 32, 32),
        "C2": (2, 1, 16, 16),
        "C3": (2, 1, 8, 8),
        "C4": (2, 1, 4, 4),
    }
    assert all(((m > 0) & (m < 1)).all() for m in maps.values())
    assert network_with(mask_branch=True, attention=False).attention_maps(torch.zeros(1, 3, 64, 64)) == {}
    maps = network_with(levels="P3-P7", mask_branch=False, attention=True).attention_maps(torch.zeros(1, 3, 64, 64))
    assert list(maps) == ["C3", "C4"]


def test_a_compiled_network_that_has_run_still_shows_its_attention_maps():
    network, images = network_with(mask_branch=True, attention=True), torch.zeros(1, 3, 64, 64)
    network.compile(backend="eager")
    with torch.no_grad():
        network(images)
    assert list(network.attention_maps(images)) == ["C1", "C2", "C3", "C4"]
