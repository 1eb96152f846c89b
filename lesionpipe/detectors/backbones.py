"""Backbones: image -> C1 … C5, the last features at strides 2, 4, 8, 16 and 32 (paper, sec. 2.1: VGG-19).

VGG's C1 … C5 are the outputs of its five pooling layers, ResNet's those of its stem and its four stages; layers and
names of weights are torchvision's. A number of input slices other than three changes the first convolution, see
`adapt_slices`. Sides need not be multiples of 32: level n has the side ceil(side / 2**n).

torchvision's `IntermediateLayerGetter` would give the same features, but as a dict, without their channels, with the
ReLU before VGG's pooling and with rounded-down sides: each stage is a plain `nn.Sequential` here instead.
"""

from itertools import pairwise

from torch import Tensor, nn
from torchvision import models
from torchvision.models.vgg import cfgs as VGG_LAYERS
from torchvision.models.vgg import make_layers

from lesionpipe.detectors.weights import load_pretrained

SMALL_CHANNELS = (16, 32, 64, 128, 128)  # of C1 … C5
SMALL_RESIDUALS = (2, 2, 2, 1)  # residual convolutions that end C2 … C5
VGG_CHANNELS = (64, 128, 256, 512, 512)
RESNET_CHANNELS = (64, 256, 512, 1024, 2048)
VGG_CONFIGS = {"vgg16": "D", "vgg19": "E"}  # torchvision's names of the paper's tables (Simonyan and Zisserman)


class Backbone(nn.Module):
    """Five stages in a row that give C1 … C5, each of half the side; `channels` are their numbers of channels."""

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
    """A backbone for images of `slices` channels.

    Args:
        name: small, vgg16, vgg16_bn, vgg19, vgg19_bn or resnet50.
        weights: `imagenet`, a state-dict file, or None for random initialisation.
        slices: channels of the input.

    Raises:
        UserError: the weights can't be fetched or read, don't fit, or don't exist (`small` has none from ImageNet).
    """
    if name == "small":
        backbone = _small(slices)
        load_pretrained(backbone, name, weights)
        return backbone
    body = _resnet() if name == "resnet50" else _vgg(name)
    load_pretrained(body, name, weights)
    first = next(module for module in body.modules() if isinstance(module, nn.Conv2d))
    first.weight, first.in_channels = nn.Parameter(adapt_slices(first.weight.detach(), slices)), slices
    return _resnet_stages(body) if name == "resnet50" else _vgg_stages(body)


def adapt_slices(weight: Tensor, slices: int) -> Tensor:
    """First-layer weights (C, 3, k, k) for another number of input slices: (C, slices, k, k).

    Every slice gets the mean over the colours times 3 / slices, so that a stack of equal slices gives the response that
    a grey picture gave. Three slices keep the weights as they are.
    """
    if slices == weight.shape[1]:
        return weight
    return weight.mean(dim=1, keepdim=True).repeat(1, slices, 1, 1) * (weight.shape[1] / slices)


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


def _resnet() -> models.ResNet:
    """torchvision's ResNet-50; the last batch norm of each residual block starts at zero, so the block as identity."""
    body = models.resnet50(weights=None, num_classes=1, zero_init_residual=True)
    del body.fc
    return body


def _resnet_stages(body: models.ResNet) -> Backbone:
    stem = nn.Sequential(body.conv1, body.bn1, body.relu)
    stages = [stem, nn.Sequential(body.maxpool, body.layer1), body.layer2, body.layer3, body.layer4]
    return Backbone(stages, RESNET_CHANNELS)


def _small(slices: int) -> Backbone:
    """A net for CPUs: each stage a stride-2 convolution, then residual ones; no convolution at full resolution.

    The first stage is a plain 5x5 convolution, since at half resolution few channels cost as much time as many.
    """
    stages: list[nn.Module] = [_convolution(slices, SMALL_CHANNELS[0], kernel=5, stride=2)]
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
