"""Backbones: image -> C1 … C5, the last features at strides 2, 4, 8, 16 and 32 (paper, sec. 2.1: VGG-19).

VGG's C1 … C5 are the outputs of its five pooling layers, ResNet's those of its stem and its four stages. Weights come
from torchvision (`imagenet`), from a state-dict file, or from chance. A number of input slices other than three changes
the first convolution, see `adapt_slices`. Sides need not be multiples of 32: level n measures ceil(side / 2**n).
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import Bottleneck

from lesionpipe.core.errors import UserError
from lesionpipe.core.tensor_file import Unreadable, load_tensors

SMALL_CHANNELS = (16, 32, 64, 128, 128)  # of C1 … C5
SMALL_RESIDUALS = (2, 2, 2, 1)  # residual convolutions that end C2 … C5
RGB = 3


class Backbone(nn.Module):
    """Five stages in a row, each halving the side.

    Args:
        stages: modules that give C1 … C5, each from the one before.
        channels: their numbers of channels.
    """

    def __init__(self, stages: list[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """C1 … C5 of images (B, slices, H, W): level n is (B, channels[n-1], ceil(H / 2**n), ceil(W / 2**n))."""
        features = []
        x = images
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features


def build_backbone(name: str, weights: str | None, slices: int) -> Backbone:
    """The backbone `name` for images of `slices` channels; weights: `imagenet`, a state-dict file, or None for chance.

    Raises:
        UserError: the weights can't be fetched or read, don't fit, or don't exist (`small` has none from ImageNet).
    """
    if name == "small":
        backbone = _small(slices)
        if weights is not None:
            _load(backbone, _read_weights(name, weights), str(weights))
        return backbone
    body = _torchvision_body(name)
    if weights is not None:
        _load(body, _read_weights(name, weights), str(weights))
    _set_first_convolution(body, slices)
    return _resnet_stages(body) if name == "resnet50" else _vgg_stages(body)


def adapt_slices(weight: Tensor, slices: int) -> Tensor:
    """First-layer weights (C, 3, k, k) for another number of input slices: (C, slices, k, k).

    Every slice gets the mean over the colours times 3 / slices, so that a stack of equal slices is answered as a grey
    picture was. Three slices keep the weights as they are.
    """
    if slices == weight.shape[1]:
        return weight
    return weight.mean(dim=1, keepdim=True).repeat(1, slices, 1, 1) * (weight.shape[1] / slices)


def _torchvision_body(name: str) -> nn.Module:
    """Torchvision's network without its classifier (which alone would take 120 million numbers to fill in VGG)."""
    with torch.device("meta"):
        model = models.get_model(name)
    if name == "resnet50":
        del model.fc
    else:
        model = nn.ModuleDict({"features": model.features})
    model.to_empty(device="cpu")
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    for module in model.modules():
        if isinstance(module, Bottleneck):  # starts as its direct way; sixteen sums in a row would swell the signal
            nn.init.zeros_(module.bn3.weight)
    return model


def _set_first_convolution(body: nn.Module, slices: int) -> None:
    first = next(module for module in body.modules() if isinstance(module, nn.Conv2d))
    first.weight = nn.Parameter(adapt_slices(first.weight.detach(), slices))
    first.in_channels = slices


def _vgg_stages(body: nn.Module) -> Backbone:
    """Cut VGG after each pooling layer; rounding sizes up keeps the last row and column of odd sides.

    The ReLU before a pooling layer goes behind it, where it has a quarter of the values: both rise, so they commute.
    """
    stages, layers, channels, width = [], [], [], RGB
    for layer in body["features"]:
        if isinstance(layer, nn.Conv2d):
            width = layer.out_channels
        if not isinstance(layer, nn.MaxPool2d):
            layers.append(layer)
            continue
        layer.ceil_mode = True
        stages.append(nn.Sequential(*layers[:-1], layer, layers[-1]))
        channels.append(width)
        layers = []
    return Backbone(stages, tuple(channels))


def _resnet_stages(body: nn.Module) -> Backbone:
    stem = nn.Sequential(body.conv1, body.bn1, body.relu)
    stages = [stem, nn.Sequential(body.maxpool, body.layer1), body.layer2, body.layer3, body.layer4]
    return Backbone(stages, (64, 256, 512, 1024, 2048))


def _small(slices: int) -> Backbone:
    """A net for CPUs: each stage a stride-2 convolution, then residual ones; no convolution at full resolution.

    The first stage is a plain 5x5 convolution, since at half resolution few channels cost as much time as many.
    """
    first = SMALL_CHANNELS[0]
    stages: list[nn.Module] = [_convolution(slices, first, kernel=5, stride=2)]
    width = first
    for channels, residuals in zip(SMALL_CHANNELS[1:], SMALL_RESIDUALS, strict=True):
        rest = (Residual(channels) for _ in range(residuals))
        stages.append(nn.Sequential(_convolution(width, channels, stride=2), *rest))
        width = channels
    return Backbone(stages, SMALL_CHANNELS)


def _convolution(width: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width, channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """x + ReLU(BN(conv(x))): one 3x3 convolution beside a direct way through."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)


def _read_weights(name: str, weights: str) -> Mapping[str, Tensor]:
    """A state dict from torchvision or from a file."""
    if weights == "imagenet":
        return _imagenet_weights(name)
    try:
        state = load_tensors(weights)
    except FileNotFoundError:
        raise UserError(f"network.weights: {weights}: no such file; give a state dict, imagenet or null") from None
    except Unreadable as reason:
        raise UserError(f"network.weights: {weights}: not a state dict saved by torch ({reason})") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"network.weights: {weights}: not a state dict (a mapping of names to tensors)")
    return state


def _imagenet_weights(name: str) -> Mapping[str, Tensor]:
    if name == "small":
        raise UserError("network.weights = imagenet: the backbone 'small' has none; set network.weights to null")
    source = models.get_model_weights(name).DEFAULT
    try:
        return source.get_state_dict(progress=False, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise UserError(
            f"network.weights = imagenet: can't fetch {source.url} ({error}); put that file into {folder}, "
            "or give its path as network.weights, or set network.weights to null to train from scratch"
        ) from None


def _load(body: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Fill `body`; the classifier's entries, which a detector has no use for, are passed over."""
    wanted = body.state_dict()
    for key, value in wanted.items():
        if key not in state and not key.endswith("num_batches_tracked"):
            raise UserError(f"network.weights: {source}: lacks '{key}'; are these weights of another backbone?")
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(value.shape)}"
            raise UserError(f"network.weights: {source}: '{key}' is {shapes}; are these weights of another backbone?")
    body.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
