"""The prediction head: a few 3x3 convolutions with ReLU, then one that predicts, shared by all pyramid levels.

One class serves both sub-networks of RetinaNet: one output per anchor for the lesion's logit, four for its box offsets
(paper, Fig. 1, yellow). The hidden width is a parameter of its own: P2 has four times the cells of P3, so that heads of
RetinaNet's 256 channels would take a third of the whole network's arithmetic there alone.

Weights start from a normal distribution of std 0.01, RetinaNet's for its 256 channels; with fewer channels the same std
would shrink the signal more in each layer and slow training down, so it grows with sqrt(256 / channels). The logit's
bias starts at a prior of 0.01, so that the many background anchors don't swamp the first steps (RetinaNet, sec. 4.1).
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from lesionpipe.detectors.interface import Float32Conv2d

INITIAL_STD = 0.01
INITIAL_STD_CHANNELS = 256  # the input channels for which INITIAL_STD is meant
PRIOR = 0.01
PRIOR_LOGIT = -math.log((1 - PRIOR) / PRIOR)


class Head(nn.Module):
    """`outputs_per_anchor` numbers for each of `per_cell` anchors in each cell of each level.

    Args:
        channels: of the pyramid.
        hidden_channels, depth: of the hidden convolutions, and how many there are.
        per_cell: anchors per cell.
        outputs_per_anchor: 1 for logits, 4 for box offsets.
        initial_bias: of the predicting convolution.
    """

    def __init__(
        self,
        channels: int,
        hidden_channels: int,
        depth: int,
        per_cell: int,
        outputs_per_anchor: int,
        initial_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.outputs_per_anchor = outputs_per_anchor
        widths = [channels, *[hidden_channels] * depth]
        hidden = [nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths)]
        prediction = Float32Conv2d(widths[-1], per_cell * outputs_per_anchor, 3, padding=1)
        for convolution in (*hidden, prediction):
            std = INITIAL_STD * math.sqrt(INITIAL_STD_CHANNELS / convolution.in_channels)
            nn.init.normal_(convolution.weight, std=std)
            nn.init.zeros_(convolution.bias)
        nn.init.constant_(prediction.bias, initial_bias)
        relus = [nn.ReLU(inplace=True) for _ in hidden]
        self.layers = nn.Sequential(*(layer for pair in zip(hidden, relus, strict=True) for layer in pair), prediction)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Levels (B, channels, h, w), finest first -> float32 (B, A, outputs): levels, rows of cells, then anchors."""
        maps = (self.layers(level).permute(0, 2, 3, 1) for level in levels)  # (B, h, w, K*V)
        return torch.cat([own.reshape(len(own), -1, self.outputs_per_anchor) for own in maps], dim=1)
