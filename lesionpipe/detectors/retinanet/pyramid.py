"""What goes from coarse to fine: the feature pyramid, the segmentation branch on its P2, and the gates on their skips.

torchvision's `FeaturePyramidNetwork` has the pyramid's arithmetic but no place for a gate between skip and sum.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesionpipe.detectors.interface import Float32Conv2d
from lesionpipe.detectors.retinanet.heads import PRIOR_LOGIT

TOP_LEVEL = 5  # the backbone's last level
INITIAL_GATE_BIAS = 2.0  # of psi: a new gate passes 88 % of the skip, so that training starts nearly as without gates
MIN_INNER_CHANNELS = 8


class Pyramid(nn.Module):
    """C1 … C5 -> P`first` … P`last`, all with `channels` channels (paper, sec. 2.1; RetinaNet, sec. 4).

    P5 … P2 are made from the top down: the coarser level, upsampled to the exact size of the finer one, plus a 1x1
    convolution of the backbone's features (gated if `attention`), then a 3x3 convolution. P6 is a 3x3 stride-2
    convolution on C5, P7 a ReLU and a 3x3 stride-2 convolution on P6. 2 <= first <= 5 <= last <= 7.
    """

    def __init__(
        self, backbone_channels: tuple[int, ...], channels: int, first: int, last: int, attention: bool
    ) -> None:
        super().__init__()
        self.first = first
        merged = range(first, TOP_LEVEL)
        self.skip_convs = nn.ModuleList(nn.Conv2d(width, channels, 1) for width in backbone_channels[first - 1 :])
        self.gates = nn.ModuleList(AttentionGate(channels, channels) for _ in merged if attention)
        self.output_convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in (*merged, TOP_LEVEL))
        widths = (backbone_channels[-1], channels)[: last - TOP_LEVEL]
        self.extra_levels = nn.ModuleList(nn.Conv2d(width, channels, 3, stride=2, padding=1) for width in widths)
        _initialise(*self.skip_convs, *self.output_convs, *self.extra_levels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Level n (B, channels, ceil(H / 2**n), ceil(W / 2**n)), finest first."""
        skips = features[self.first - 1 :]
        merged = self.skip_convs[-1](skips[-1])
        levels = [self.output_convs[-1](merged)]
        for i in range(len(skips) - 2, -1, -1):
            skip = self.skip_convs[i](skips[i])
            if self.gates:
                skip = self.gates[i](skip, merged)
            merged = _upsampled(merged, skip).add_(skip)
            levels.insert(0, self.output_convs[i](merged))
        x = features[-1]
        for i, convolution in enumerate(self.extra_levels):
            x = convolution(torch.relu(x) if i else x)
            levels.append(x)
        return levels


class SegmentationBranch(nn.Module):
    """P2 -> P1 -> full resolution -> one lesion logit per pixel (paper, sec. 2.2, Fig. 1).

    The first upsampling is fused with C1 through a 1x1 convolution (gated if `attention`), the second with the input
    image through two 3x3 convolutions. Channels: an eighth of P2's at stride 2, a thirty-second at full resolution, so
    32 and 8 in the paper's setting: a map at full resolution has 16 times the pixels of P2, so that reading and writing
    it costs more than the arithmetic on it.

    Args:
        slices, c1_channels, channels: channels of the image, of C1 and of P2.
        attention: gate the skip from C1.
    """

    def __init__(self, slices: int, c1_channels: int, channels: int, attention: bool) -> None:
        super().__init__()
        half, full = max(16, channels // 8), max(8, channels // 32)  # channels at stride 2 and at full resolution
        self.reduce_p2 = nn.Conv2d(channels, half, 1)
        self.skip_c1 = nn.Conv2d(c1_channels, half, 1)
        self.gate = AttentionGate(half, half) if attention else None
        self.reduce_p1 = nn.Conv2d(half, full, 3, padding=1)
        self.skip_input = nn.Sequential(
            nn.Conv2d(slices, full, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(full, full, 3, padding=1)
        )
        self.prediction = Float32Conv2d(full, 1, 3, padding=1)
        hidden = (self.reduce_p2, self.skip_c1, self.reduce_p1, self.skip_input[0], self.skip_input[2])
        _initialise(*hidden, self.prediction)
        nn.init.normal_(self.prediction.weight, std=0.01)
        nn.init.constant_(self.prediction.bias, PRIOR_LOGIT)

    def forward(self, images: Tensor, c1: Tensor, p2: Tensor) -> Tensor:
        """Images (B, slices, H, W), C1 at stride 2 and P2 at stride 4 -> float32 mask logits (B, H, W)."""
        coarse, skip = self.reduce_p2(p2), self.skip_c1(c1)
        if self.gate is not None:
            skip = self.gate(skip, coarse)
        p1 = _upsampled(coarse, c1).add_(skip).relu_()
        p0 = _upsampled(self.reduce_p1(p1), images).add_(self.skip_input(images)).relu_()
        return self.prediction(p0).squeeze(1)


class AttentionMap(nn.Module):
    """Skip (B, C, H, W), coarser features (B, G, h, w) -> sigmoid(psi(relu(theta(skip) + up(phi(coarse))))), one map
    (B, 1, H, W) for all channels (paper, sec. 2.3, after Schlemper et al.).

    1x1 convolutions only, with a quarter of the skip's channels inside. The paper takes features upsampled from the
    coarser scale as the gating signal; a 1x1 convolution and nearest upsampling commute, so phi runs before the
    upsampling at a quarter of the cost and gives the same numbers.
    """

    def __init__(self, skip_channels: int, gating_channels: int) -> None:
        super().__init__()
        inner = max(MIN_INNER_CHANNELS, skip_channels // 4)
        self.theta = nn.Conv2d(skip_channels, inner, 1, bias=False)
        self.phi = nn.Conv2d(gating_channels, inner, 1)
        self.psi = nn.Conv2d(inner, 1, 1)
        _initialise(self.theta, self.phi)
        nn.init.normal_(self.psi.weight, std=0.01)
        nn.init.constant_(self.psi.bias, INITIAL_GATE_BIAS)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return torch.sigmoid(self.psi(_upsampled(self.phi(coarse), skip).add_(self.theta(skip)).relu_()))


class AttentionGate(nn.Module):
    """The skip connection multiplied by its `AttentionMap`."""

    def __init__(self, skip_channels: int, gating_channels: int) -> None:
        super().__init__()
        self.attention = AttentionMap(skip_channels, gating_channels)

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return self.attention(skip, coarse) * skip


def _upsampled(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def _initialise(*convolutions: nn.Conv2d) -> None:
    """As torchvision does in its pyramid."""
    for convolution in convolutions:
        nn.init.kaiming_uniform_(convolution.weight, a=1)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
