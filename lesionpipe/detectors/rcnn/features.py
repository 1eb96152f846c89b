"""Images -> the maps that regions are proposed on and judged on, one class per kind of detector.

Faster R-CNN and 3DCE see one map, the backbone's last, whose side is not halved any more once it has the wanted stride
(3DCE: VGG-16 without its last two poolings, stride 8). Mask R-CNN sees the pyramid P2 … P6.
"""

from typing import NamedTuple

from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lesionpipe.detectors.backbones import Backbone

WIDEST = 512  # channels of VGG's last features; ResNet's 2,048 would make a first connected layer of 200 M weights
IMAGE_SLICES = 3  # that 3DCE's trunk sees at once


class RegionMaps(NamedTuple):
    """Maps (B, C, h, w), finest first."""

    proposing: list[Tensor]  # on which regions are proposed
    judging: list[Tensor]  # from which a region's features are pooled


class Trunk(nn.Module):
    """A backbone whose last features have a small stride, and at most `WIDEST` channels.

    Args:
        backbone: its stages that would halve the side once more are changed to keep it, in place.
        stride: a power of two, px.
    """

    def __init__(self, backbone: Backbone, stride: int) -> None:
        super().__init__()
        halving = stride.bit_length() - 1
        self.stages = nn.Sequential(*backbone.stages[:halving], *map(_keeping_side, backbone.stages[halving:]))
        self.channels = min(backbone.channels[-1], WIDEST)
        if backbone.channels[-1] > WIDEST:
            self.stages.append(nn.Conv2d(backbone.channels[-1], WIDEST, 1))
            nn.init.kaiming_uniform_(self.stages[-1].weight, a=1)
            nn.init.zeros_(self.stages[-1].bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, inputs, H, W) -> (B, channels, ceil(H / stride), ceil(W / stride))."""
        return self.stages(images)


def _keeping_side(stage: nn.Sequential) -> nn.Sequential:
    """The stage without its pooling layer, and with a stride of 1 in all convolutions."""
    for module in stage.modules():
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
    return nn.Sequential(*(layer for layer in stage if not isinstance(layer, nn.MaxPool2d)))


class SingleMap(nn.Module):
    """Faster R-CNN's: the trunk's map serves both purposes."""

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk

    def forward(self, images: Tensor) -> RegionMaps:
        features = [self.trunk(images)]
        return RegionMaps(features, features)


class PyramidMaps(nn.Module):
    """Mask R-CNN's: P2 … P5 for judging, with P6, every second value of P5, for proposing.

    Args:
        backbone: gives C1 … C5.
        channels: of every level.
    """

    def __init__(self, backbone: Backbone, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = FeaturePyramidNetwork(list(backbone.channels[1:]), channels, extra_blocks=LastLevelMaxPool())

    def forward(self, images: Tensor) -> RegionMaps:
        levels = dict(enumerate(self.backbone(images)[1:]))
        pyramid = list(self.pyramid(levels).values())
        return RegionMaps(pyramid, pyramid[:-1])


class ContextMaps(nn.Module):
    """3DCE's: M images of three slices each go through one trunk; their maps meet only where regions are judged.

    Regions are proposed on the central image's map, which holds the lesion slice. For judging, a 1x1 convolution that
    all images share makes `bins`² x `depth` channels of each, and the images' channels are put one after the other.

    Args:
        trunk: for three slices, with their windows.
        count: M.
        bins: along each side of a pooled region.
        depth: channels per bin and image.
    """

    def __init__(self, trunk: Trunk, count: int, bins: int, depth: int) -> None:
        super().__init__()
        self.trunk, self.count = trunk, count
        self.sensitive = nn.Conv2d(trunk.channels, bins * bins * depth, 1)
        nn.init.normal_(self.sensitive.weight, std=0.01)
        nn.init.zeros_(self.sensitive.bias)

    def forward(self, images: Tensor) -> RegionMaps:
        """Images (B, windows * 3 M, H, W): all slices in the whole range of HU, then all in the first window …"""
        batch, side = len(images), images.shape[-2:]
        by_image = images.reshape(batch, -1, self.count, IMAGE_SLICES, *side).transpose(
            1, 2
        )  # (B, M, windows, 3, H, W)
        maps = self.trunk(by_image.reshape(batch * self.count, -1, *side))  # (B M, C, h, w)
        fused = self.sensitive(maps).reshape(batch, -1, *maps.shape[-2:])  # (B, M bins² depth, h, w)
        return RegionMaps([maps[self.count // 2 :: self.count]], [fused])
