"""The feature pyramid: C1 … C5 -> P2 … P7, all with the same number of channels (paper, sec. 2.1; RetinaNet, sec. 4).

P5 … P2 come from the top down: the coarser level, upsampled to the exact size of the finer one, plus a 1x1 convolution
of the backbone's features (through an attention gate where wanted), then a 3x3 convolution. P6 is a 3x3 stride-2
convolution on C5, P7 a ReLU and a 3x3 stride-2 convolution on P6.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesionpipe.detectors.retinanet.attention import gate

TOP = 5  # the backbone's last level


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
        self.lateral = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in backbone_channels[first - 1 :])
        self.gates = nn.ModuleList(gate(attention, channels, channels) for _ in range(first, TOP))
        self.smooth = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(first, TOP + 1))
        widths = (backbone_channels[-1], channels)[: last - TOP]
        self.coarse = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths)
        for convolution in (*self.lateral, *self.smooth, *self.coarse):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """C1 … C5 -> P`first` … P`last`, level n (B, channels, ceil(H / 2**n), ceil(W / 2**n)), finest first."""
        skips = features[self.first - 1 :]
        merged = self.lateral[-1](skips[-1])
        levels = [self.smooth[-1](merged)]
        for i in range(len(skips) - 2, -1, -1):
            skip = self.gates[i](self.lateral[i](skips[i]), merged)
            merged = F.interpolate(merged, size=skip.shape[-2:], mode="nearest").add_(skip)
            levels.insert(0, self.smooth[i](merged))
        return levels + self._coarse(features[-1])

    def _coarse(self, top: Tensor) -> list[Tensor]:
        """P6 and P7 from C5, as many as wanted."""
        levels, x = [], top
        for convolution in self.coarse:
            x = convolution(torch.relu(x) if levels else x)
            levels.append(x)
        return levels
