"""Backbones: strides, channels, odd sides, weights from files, other numbers of slices."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from lesionpipe.core.errors import UserError
from lesionpipe.detectors.backbones import Residual, adapt_inputs, build_backbone, weights_file

CHANNELS = {
    "small": (16, 32, 64, 128, 128),
    "vgg16": (64, 128, 256, 512, 512),
    "vgg16_bn": (64, 128, 256, 512, 512),
    "vgg19": (64, 128, 256, 512, 512),
    "vgg19_bn": (64, 128, 256, 512, 512),
    "resnet50": (64, 256, 512, 1024, 2048),
}


@pytest.mark.parametrize("name", CHANNELS)
def test_c1_to_c5_have_strides_2_to_32_rounded_up_for_odd_sides(name):
    backbone = build_backbone(name, None, 3).eval()
    with torch.no_grad():
        features = backbone(torch.zeros(1, 3, 70, 33))
    assert [f.shape[1] for f in features] == list(CHANNELS[name]) == list(backbone.channels)
    assert [tuple(f.shape[2:]) for f in features] == [(35, 17), (18, 9), (9, 5), (5, 3), (3, 2)]


@pytest.mark.parametrize(("name", "per_stage"), [("vgg16", [2, 2, 3, 3, 3]), ("vgg19_bn", [2, 2, 4, 4, 4])])
def test_each_vgg_stage_ends_with_its_pooling_and_then_its_last_relu(name, per_stage):
    for stage, count in zip(build_backbone(name, None, 3).stages, per_stage, strict=True):
        assert sum(isinstance(layer, nn.Conv2d) for layer in stage) == count
        assert [type(layer) for layer in stage][-2:] == [nn.MaxPool2d, nn.ReLU]


def test_each_small_stage_ends_with_its_residual_convolutions():
    first, *rest = build_backbone("small", None, 3).stages
    assert not any(isinstance(layer, Residual) for layer in first)
    assert [[isinstance(layer, Residual) for layer in stage] for stage in rest] == [
        [False, *[True] * count] for count in (2, 2, 2, 1)
    ]


def test_vgg_with_weights_of_a_file_gives_torchvisions_features(tmp_path):
    torch.manual_seed(0)
    theirs = nn.ModuleDict({"features": models.vgg16_bn(weights=None, num_classes=1).features}).eval()
    torch.save(theirs.state_dict() | {"classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.pth")
    ours = build_backbone("vgg16_bn", str(tmp_path / "vgg.pth"), 3).eval()
    images = torch.randn(1, 3, 64, 64)
    c1_to_c5, x = [], images
    with torch.no_grad():
        for layer in theirs["features"]:
            x = layer(x)
            c1_to_c5 += [x] if isinstance(layer, nn.MaxPool2d) else []
        assert all(map(torch.equal, ours(images), c1_to_c5))


def test_resnet_with_weights_of_a_file_gives_torchvisions_features(tmp_path):
    torch.manual_seed(0)
    theirs = models.resnet50(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = build_backbone("resnet50", str(tmp_path / "resnet.pth"), 3).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pooled = ours(images)[-1].mean(dim=(2, 3))
        torch.testing.assert_close(theirs.fc(pooled), theirs(images))


@pytest.mark.parametrize(("name", "save"), [("small.pth", torch.save), ("small.safetensors", save_file)])
def test_small_weights_come_back_from_a_file(name, save, tmp_path):
    first = build_backbone("small", None, 5)
    save(first.state_dict(), tmp_path / name)
    second = build_backbone("small", str(tmp_path / name), 5)
    assert torch.equal(first.stages[0][0].weight, second.stages[0][0].weight)


@pytest.mark.parametrize("slices", [1, 3, 5, 9])
def test_a_stack_of_equal_slices_gives_the_response_of_a_grey_picture(slices):
    weight = torch.randn(4, 3, 3, 3)
    picture = torch.randn(1, 1, 8, 8)
    expected = nn.functional.conv2d(picture.repeat(1, 3, 1, 1), weight)
    adapted = adapt_inputs(weight, slices)
    assert adapted.shape == (4, slices, 3, 3)
    torch.testing.assert_close(
        nn.functional.conv2d(picture.repeat(1, slices, 1, 1), adapted), expected, atol=1e-4, rtol=0
    )


def test_three_slices_keep_the_weights():
    weight = torch.randn(4, 3, 3, 3)
    assert adapt_inputs(weight, 3) is weight


def test_nine_slices_of_weights_of_a_file(tmp_path):
    torch.manual_seed(0)
    theirs = models.resnet50(weights=None)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    ours = build_backbone("resnet50", str(tmp_path / "resnet.pth"), 9).eval()
    slice_ = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        expected = theirs.eval().conv1(slice_.repeat(1, 3, 1, 1))
        torch.testing.assert_close(ours.stages[0][0](slice_.repeat(1, 9, 1, 1)), expected, atol=1e-4, rtol=1e-4)


def test_weights_that_cannot_be_fetched_name_the_ways_out(monkeypatch):
    def offline(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nowhere/hub")
    monkeypatch.setattr("os.makedirs", lambda *args, **kwargs: None)
    with pytest.raises(
        UserError, match=r"network.weights = imagenet: can't fetch .*vgg19.*no network.*/nowhere/hub.*null"
    ):
        build_backbone("vgg19", "imagenet", 3)


def test_small_has_no_imagenet_weights():
    with pytest.raises(UserError, match="'small' has none"):
        build_backbone("small", "imagenet", 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "not a state dict .*No such file"),
        (b"not torch", "not a state dict"),
        (b"", "not a state dict"),
        ({"features.0.weight": torch.zeros(64, 3, 3, 3)}, "lacks 'features.0.bias'"),
        ([1, 2], "not a state dict"),
        ({"epoch": 3}, "not a state dict"),
    ],
)
def test_files_that_are_no_weights_are_refused(content, words, tmp_path):
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=words):
        build_backbone("vgg16", str(path), 3)


def test_a_damaged_safetensors_file_is_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(UserError, match=r"network.weights: .*w\.safetensors: not a state dict"):
        build_backbone("small", str(tmp_path / "w.safetensors"), 3)


def test_only_weights_that_dvc_tracks_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data/inputs/weights"
    folder.mkdir(parents=True)
    (tmp_path / "elsewhere.pth").write_bytes(b"weights")
    (folder / "link.pth").symlink_to(tmp_path / "elsewhere.pth")
    assert weights_file(None) is weights_file("imagenet") is None
    for weights in ("data/inputs/weights/link.pth", str(folder / "link.pth")):
        assert weights_file(weights) == Path(weights)
    for weights in ("elsewhere.pth", str(tmp_path / "elsewhere.pth"), "data/inputs/weights/../../../elsewhere.pth"):
        with pytest.raises(UserError, match=r"^network\.weights = .*elsewhere\.pth: .*link it there and set") as caught:
            weights_file(weights)
        assert "\n" not in str(caught.value)


def test_a_missing_file_of_weights_is_named_with_its_parameter(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = r"network\.weights: data/inputs/weights/gone\.pth: no such file; give a state dict in data/inputs/weights"
    with pytest.raises(UserError, match=message):
        weights_file("data/inputs/weights/gone.pth")


def test_residual_blocks_of_resnet_start_as_identity():
    body = build_backbone("resnet50", None, 3)
    blocks = [module for module in body.modules() if isinstance(module, models.resnet.Bottleneck)]
    assert len(blocks) == 16 and all((block.bn3.weight == 0).all() for block in blocks)


def test_vgg_comes_without_its_classifier():
    assert sum(parameter.numel() for parameter in build_backbone("vgg19", None, 3).parameters()) < 21e6


def test_weights_of_the_wrong_shape_are_refused(tmp_path):
    state = build_backbone("small", None, 3).state_dict()
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"\(16, 3, 5, 5\) instead of \(16, 5, 5, 5\)"):
        build_backbone("small", str(tmp_path / "w.pth"), 5)


def test_random_weights_follow_the_seed():
    torch.manual_seed(3)
    first = build_backbone("vgg16", None, 3)
    torch.manual_seed(3)
    second = build_backbone("vgg16", None, 3)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
