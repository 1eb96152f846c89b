"""The feature pyramid: C1 … C5 -> P2 … P7, all with the same number of channels (paper, sec. 2.1; RetinaNet, sec. 4).

P5 … P2 are made from the top down: the coarser level, upsampled to the exact size of the finer one, plus a 1x1
convolution of the backbone's features (through an attention gate where wanted), then a 3x3 convolution. P6 is a 3x3
stride-2 convolution on C5, P7 a ReLU and a 3x3 stride-2 convolution on P6.

torchvision's `FeaturePyramidNetwork` has the same arithmetic but no place for the gates between skip and sum.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesionpipe.detectors.retinanet.attention import build_gate

TOP_LEVEL = 5  # the backbone's last level


class Pyramid(nn.Module):
    """Levels `first` … `last` of the pyramid.

    Args:
        backbone_channels: channels of C1 … C5.
        channels: channels of every level.
        first, last: level numbers, 2 <= first <= 5 <= last <= 7.
        attention: gate the skip connections below the top.
    """

    def __init__(
        self, backbone_channels: tuple[int, ...], channels: int, first: int, last: int, attention: bool
    ) -> None:
        super().__init__()
        self.first = first
        self.skip_convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in backbone_channels[first - 1 :])
        self.gates = nn.ModuleList(build_gate(attention, channels, channels) for _ in range(first, TOP_LEVEL))
        output_convs = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(first, TOP_LEVEL + 1))
        self.output_convs = nn.ModuleList(output_convs)
        widths = (backbone_channels[-1], channels)[: last - TOP_LEVEL]
        self.extra_levels = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths)
        for convolution in (*self.skip_convs, *self.output_convs, *self.extra_levels):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """C1 … C5 -> P`first` … P`last`, level n (B, channels, ceil(H / 2**n), ceil(W / 2**n)), finest first."""
        skips = features[self.first - 1 :]
        merged = self.skip_convs[-1](skips[-1])
        levels = [self.output_convs[-1](merged)]
        for i in range(len(skips) - 2, -1, -1):
            skip = self.gates[i](self.skip_convs[i](skips[i]), merged)
            merged = F.interpolate(merged, size=skip.shape[-2:], mode="nearest").add_(skip)
            levels.insert(0, self.output_convs[i](merged))
        return levels + self._extra_levels(features[-1])

    def _extra_levels(self, c5: Tensor) -> list[Tensor]:
        """P6 and P7, as many as wanted."""
        levels, x = [], c5
        for convolution in self.extra_levels:
            x = convolution(torch.relu(x) if levels else x)
            levels.append(x)
        return levels
