"""Backbones: image -> C1 … C5, the last features at strides 2, 4, 8, 16 and 32 (paper, sec. 2.1: VGG-19).

VGG's C1 … C5 are the outputs of its five pooling layers, ResNet's those of its stem and its four stages; layers and
names of weights are torchvision's. (Its `IntermediateLayerGetter` would give the features without their channels, with
the ReLU before VGG's pooling and with rounded-down sides.)

Pretrained weights (`network.weights`) are state dicts saved by torch or safetensors files; neither can run code when it
is read. They lie in data/inputs/weights, where DVC tracks their contents: replaced under the same name they retrain.
"""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import cfgs as VGG_LAYERS
from torchvision.models.vgg import make_layers

from lesionpipe.core.errors import UserError
from lesionpipe.core.tensor_file import Unreadable, load_tensors, read_safetensors

WEIGHTS_FOLDER = Path("data/inputs/weights")
IMAGENET = "imagenet"
SMALL_CHANNELS = (16, 32, 64, 128, 128)  # of C1 … C5
SMALL_RESIDUALS = (2, 2, 2, 1)  # residual convolutions that end C2 … C5
VGG_CHANNELS = (64, 128, 256, 512, 512)
RESNET_CHANNELS = (64, 256, 512, 1024, 2048)
RESNETS = {"resnet50": models.resnet50, "resnet101": models.resnet101}
VGG_CONFIGS = {"vgg16": "D", "vgg19": "E"}  # torchvision's names of the paper's tables (Simonyan and Zisserman)


class Backbone(nn.Module):
    """Five stages in a row that give C1 … C5, each of half the side; `channels` are their numbers of channels."""

    def __init__(self, stages: list[nn.Module], channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """C1 … C5 of images (B, inputs, H, W): level n is (B, channels[n-1], ceil(H / 2**n), ceil(W / 2**n))."""
        features = [images]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


def build_backbone(name: str, weights: str | None, inputs: int) -> Backbone:
    """The backbone `name` (small, vgg…, vgg…_bn, resnet50 or resnet101) for images of `inputs` channels.

    `weights`: `imagenet`, a state-dict file, or None for random initialisation; errors as in `load_pretrained`.
    """
    if name == "small":
        backbone = _small(inputs)
        load_pretrained(backbone, name, weights)
        return backbone
    body = _resnet(name) if name in RESNETS else _vgg(name)
    load_pretrained(body, name, weights)
    first = next(module for module in body.modules() if isinstance(module, nn.Conv2d))
    first.weight, first.in_channels = nn.Parameter(adapt_inputs(first.weight.detach(), inputs)), inputs
    return _resnet_stages(body) if name in RESNETS else _vgg_stages(body)


def adapt_inputs(weight: Tensor, inputs: int) -> Tensor:
    """First-layer weights (C, 3, k, k) for another number of input channels: (C, inputs, k, k).

    Each gets the mean over the colours times 3 / inputs, so that a stack of equal slices gives the response that a grey
    picture gave. Three channels keep the weights as they are.
    """
    if inputs == weight.shape[1]:
        return weight
    return weight.mean(dim=1, keepdim=True).repeat(1, inputs, 1, 1) * (weight.shape[1] / inputs)


def _vgg(name: str) -> nn.ModuleDict:
    """torchvision's VGG without its classifier, which alone would take 120 million numbers to fill."""
    features = make_layers(VGG_LAYERS[VGG_CONFIGS[name.removesuffix("_bn")]], batch_norm=name.endswith("_bn"))
    for module in features:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
    return nn.ModuleDict({"features": features})


def _vgg_stages(body: nn.ModuleDict) -> Backbone:
    """Cut VGG after each pooling layer; rounding sizes up keeps the last row and column of odd sides.

    The ReLU before a pooling layer moves behind it, where it has a quarter of the values, to the same result.
    """
    stages, layers = [], []
    for layer in body["features"]:
        layers.append(layer)
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
            *before, relu, pooling = layers
            stages.append(nn.Sequential(*before, pooling, relu))
            layers = []
    return Backbone(stages, VGG_CHANNELS)


def _resnet(name: str) -> models.ResNet:
    """torchvision's ResNet; the last batch norm of each residual block starts at zero, so the block as identity."""
    body = RESNETS[name](weights=None, num_classes=1, zero_init_residual=True)
    del body.fc
    return body


def _resnet_stages(body: models.ResNet) -> Backbone:
    stem = nn.Sequential(body.conv1, body.bn1, body.relu)
    stages = [stem, nn.Sequential(body.maxpool, body.layer1), body.layer2, body.layer3, body.layer4]
    return Backbone(stages, RESNET_CHANNELS)


def _small(inputs: int) -> Backbone:
    """A net for CPUs: each stage a stride-2 convolution, then residual ones; no convolution at full resolution.

    The first stage is a plain 5x5 convolution, since at half resolution few channels cost as much time as many.
    """
    stages: list[nn.Module] = [_convolution(inputs, SMALL_CHANNELS[0], kernel=5, stride=2)]
    for (width, channels), residuals in zip(pairwise(SMALL_CHANNELS), SMALL_RESIDUALS, strict=True):
        rest = (Residual(channels) for _ in range(residuals))
        stages.append(nn.Sequential(_convolution(width, channels, stride=2), *rest))
    return Backbone(stages, SMALL_CHANNELS)


def _convolution(width: int, channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(width, channels, kernel, stride, padding=kernel // 2, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


class Residual(nn.Module):
    """x + ReLU(BN(conv(x))): one 3x3 convolution and an identity connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convolution = _convolution(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.convolution(x)


def weights_file(weights: str | None) -> Path | None:
    """The file that `network.weights` names, or None where it names none (null, imagenet).

    Raises:
        UserError: it lies outside of data/inputs/weights (a link there may point anywhere), or doesn't exist.
    """
    if weights in (None, IMAGENET):
        return None
    path, folder = Path(weights), WEIGHTS_FOLDER.absolute()
    named_below = ".." not in path.parts and path.absolute().is_relative_to(folder)
    if not named_below and not path.parent.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"network.weights = {weights}: lies outside of {WEIGHTS_FOLDER}, where DVC would not see that its content "
            f"changes; copy or link it there and set network.weights to {WEIGHTS_FOLDER / path.resolve().name}"
        )
    if not path.is_file():
        raise UserError(
            f"network.weights: {weights}: no such file; give a state dict in {WEIGHTS_FOLDER}, imagenet or null"
        )
    return path


def load_pretrained(body: nn.Module, name: str, weights: str | None) -> None:
    """Fill the backbone `name`, such as torchvision builds it, from ImageNet, from a file, or not at all (None).

    Entries that a detector has no use for (the classifier's) are ignored.

    Raises:
        UserError: the weights can't be fetched or read, or an entry is missing or of another shape.
    """
    if weights is None:
        return
    state, wanted = _imagenet_weights(name) if weights == IMAGENET else _file_weights(weights), body.state_dict()
    for key, value in wanted.items():
        if key not in state and not key.endswith("num_batches_tracked"):
            raise UserError(f"network.weights: {weights}: lacks '{key}'; are these weights of another backbone?")
        if key in state and state[key].shape != value.shape:
            shapes = f"{tuple(state[key].shape)} instead of {tuple(value.shape)}"
            raise UserError(f"network.weights: {weights}: '{key}' is {shapes}; are these weights of another backbone?")
    body.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)


def _file_weights(weights: str) -> Mapping[str, Tensor]:
    try:
        state = read_safetensors(weights)[0] if weights.endswith(".safetensors") else load_tensors(weights)
        if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
            raise Unreadable("no mapping of names to tensors")
    except (FileNotFoundError, Unreadable) as reason:
        raise UserError(f"network.weights: {weights}: not a state dict of torch or safetensors ({reason})") from None
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
            f"or into {WEIGHTS_FOLDER} and give its path as network.weights, or set network.weights to null to train "
            "from scratch"
        ) from None
