"""Attention gates on skip connections (paper, sec. 2.3, after Schlemper et al.).

attention = sigmoid(psi(relu(theta(skip) + up(phi(coarse))))), output = attention * skip: 1x1 convolutions only, and one
map for all channels. The paper takes features upsampled from the coarser scale as the gating signal; a 1x1 convolution
and nearest upsampling commute, so phi runs before the upsampling at a quarter of the cost and gives the same numbers.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INITIAL_GATE_BIAS = 2.0  # of psi: a new gate passes 88 % of the skip, so that training starts nearly as without gates
MIN_INNER_CHANNELS = 8


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
        nn.init.constant_(self.psi.bias, INITIAL_GATE_BIAS)

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


class PlainSkip(nn.Module):
    """The skip connection unchanged: used in place of `AttentionGate` when `network.attention` is false."""

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return skip


def build_gate(attention: bool, skip_channels: int, gating_channels: int) -> nn.Module:
    """An attention gate whose inner channels are a quarter of the skip's (at least 8), or a plain skip connection."""
    if not attention:
        return PlainSkip()
    return AttentionGate(skip_channels, gating_channels, max(MIN_INNER_CHANNELS, skip_channels // 4))
