"""Attention gates on skip connections (paper, sec. 2.3, after Schlemper et al.).

alpha = sigmoid(psi(relu(theta(skip) + up(phi(coarse))))), output = alpha * skip: 1x1 convolutions only and one map for
all channels. The paper takes features upsampled from the coarser scale as the gating signal; a 1x1 convolution and
nearest upsampling commute, so phi runs before the upsampling at a quarter of the cost and gives the same numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPEN = 2.0  # bias of psi: a fresh gate lets 88 % of the skip through, so that training starts as without gates


class AttentionMap(nn.Module):
    """Skip (B, C, H, W) and coarser features (B, G, h, w) -> attention in (0, 1), (B, 1, H, W).

    Args:
        skip_channels: C.
        gating_channels: G.
        inner_channels: channels in which both are compared.
    """

    def __init__(self, skip_channels: int, gating_channels: int, inner_channels: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(skip_channels, inner_channels, 1, bias=False)
        self.phi = nn.Conv2d(gating_channels, inner_channels, 1)
        self.psi = nn.Conv2d(inner_channels, 1, 1)
        for convolution in (self.theta, self.phi):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
        nn.init.zeros_(self.phi.bias)
        nn.init.normal_(self.psi.weight, std=0.01)
        nn.init.constant_(self.psi.bias, OPEN)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        gating = F.interpolate(self.phi(coarse), size=skip.shape[-2:], mode="nearest")
        return torch.sigmoid(self.psi(gating.add_(self.theta(skip)).relu_()))


class AttentionGate(nn.Module):
    """The skip connection multiplied by its attention map; arguments and shapes as in `AttentionMap`."""

    def __init__(self, skip_channels: int, gating_channels: int, inner_channels: int) -> None:
        super().__init__()
        self.attention = AttentionMap(skip_channels, gating_channels, inner_channels)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return self.attention(skip, coarse) * skip


class OpenGate(nn.Module):
    """The skip connection as it is: what stands in a gate's place when attention is off."""

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return skip


def gate(attention: bool, skip_channels: int, gating_channels: int) -> nn.Module:
    """A gate that compares in a quarter of the skip's channels (at least 8), or an open one."""
    if not attention:
        return OpenGate()
    return AttentionGate(skip_channels, gating_channels, max(8, skip_channels // 4))
