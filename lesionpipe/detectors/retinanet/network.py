"""The network of RetinaNet: images -> raw maps, the same in training and in use (paper, sec. 2, Fig. 1).

`losses.py` compares the maps with targets, `decode.py` makes detections of them. Each improvement of the paper is a
switch of its own: `levels` (P2-P6 or P3-P7), `mask_branch`, `attention` (in the pyramid, the mask branch or both).
torchvision's `FeaturePyramidNetwork` has the pyramid's arithmetic but no place for a gate between skip and sum.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from array_api_compat import array_namespace
from torch import Tensor, nn

from lesionpipe.detectors.backbones import Backbone
from lesionpipe.detectors.interface import Float32Conv2d
from lesionpipe.detectors.retinanet.heads import PRIOR_LOGIT, Head
from lesionpipe.detectors.windows import Windows

TOP_LEVEL = 5  # the backbone's last level
INITIAL_GATE_BIAS = 2.0  # of psi: a new gate passes 88 % of the skip, so that training starts nearly as without gates
MIN_INNER_CHANNELS = 8
OFFSET_STD = 0.2


class RawMaps(NamedTuple):
    """What the network predicts, float32, before any sigmoid; A anchors in the order of `anchors.grid.anchors_for`."""

    logits: Tensor  # (B, A) lesion logit
    offsets: Tensor  # (B, A, 4) box offsets, see `encode_boxes`
    mask_logits: Tensor | None  # (B, H, W) lesion logit per pixel
    level_sizes: tuple[int, ...]  # anchors in each level, finest first; their sum is A


def encode_boxes(boxes, anchors):
    """Offsets (…, 4) without unit of `boxes` from `anchors`, (…, 4) xyxy px: NumPy arrays and tensors alike.

    keras-retinanet's code, where the paper is silent: corner differences over the anchor's sides, over a standard
    deviation (torchvision's `BoxCoder` codes centres and logarithms of sides instead).
    """
    return (boxes - anchors) / (_sides(anchors) * OFFSET_STD)


def decode_boxes(offsets, anchors):
    """Boxes from offsets: the inverse of `encode_boxes`."""
    return anchors + offsets * OFFSET_STD * _sides(anchors)


def _sides(anchors):
    """Width, height, width, height."""
    xp = array_namespace(anchors)
    width, height = anchors[..., 2] - anchors[..., 0], anchors[..., 3] - anchors[..., 1]
    return xp.stack([width, height, width, height], axis=-1)


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
    it costs more than the arithmetic on it. `channels` are those of P2.
    """

    def __init__(self, image_channels: int, c1_channels: int, channels: int, attention: bool) -> None:
        super().__init__()
        half, full = max(16, channels // 8), max(8, channels // 32)  # channels at stride 2 and at full resolution
        self.reduce_p2 = nn.Conv2d(channels, half, 1)
        self.skip_c1 = nn.Conv2d(c1_channels, half, 1)
        self.gate = AttentionGate(half, half) if attention else None
        self.reduce_p1 = nn.Conv2d(half, full, 3, padding=1)
        self.skip_input = nn.Sequential(
            nn.Conv2d(image_channels, full, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(full, full, 3, padding=1)
        )
        self.prediction = Float32Conv2d(full, 1, 3, padding=1)
        hidden = (self.reduce_p2, self.skip_c1, self.reduce_p1, self.skip_input[0], self.skip_input[2])
        _initialise(*hidden, self.prediction)
        nn.init.normal_(self.prediction.weight, std=0.01)
        nn.init.constant_(self.prediction.bias, PRIOR_LOGIT)

    def forward(self, images: Tensor, c1: Tensor, p2: Tensor) -> Tensor:
        """Images (B, image_channels, H, W), C1 at stride 2 and P2 at stride 4 -> float32 mask logits (B, H, W)."""
        coarse, skip = self.reduce_p2(p2), self.skip_c1(c1)
        if self.gate is not None:
            skip = self.gate(skip, coarse)
        p1 = _upsampled(coarse, c1).add_(skip).relu_()
        p0 = _upsampled(self.reduce_p1(p1), images).add_(self.skip_input(images)).relu_()
        return self.prediction(p0).squeeze(1)


class AttentionGate(nn.Module):
    """The skip connection (B, C, H, W) multiplied by its attention map, from coarser features (B, G, h, w).

    1x1 convolutions only, with a quarter of the skip's channels inside (paper, sec. 2.3, after Schlemper et al.). The
    paper takes features upsampled from the coarser scale as the gating signal; a 1x1 convolution and nearest upsampling
    commute, so phi runs before the upsampling at a quarter of the cost and gives the same numbers.
    """

    def __init__(self, skip_channels: int, gating_channels: int) -> None:
        super().__init__()
        inner = max(MIN_INNER_CHANNELS, skip_channels // 4)
        theta = nn.Conv2d(skip_channels, inner, 1, bias=False)
        phi, psi = nn.Conv2d(gating_channels, inner, 1), nn.Conv2d(inner, 1, 1)
        _initialise(theta, phi)
        nn.init.normal_(psi.weight, std=0.01)
        nn.init.constant_(psi.bias, INITIAL_GATE_BIAS)
        self.attention = nn.ModuleDict({"theta": theta, "phi": phi, "psi": psi})

    def attention_map(self, skip: Tensor, coarse: Tensor) -> Tensor:
        """sigmoid(psi(relu(theta(skip) + up(phi(coarse))))), one map (B, 1, H, W) in (0, 1) for all channels."""
        gating = _upsampled(self.attention["phi"](coarse), skip).add_(self.attention["theta"](skip))
        return torch.sigmoid(self.attention["psi"](gating.relu_()))

    def forward(self, skip: Tensor, coarse: Tensor) -> Tensor:
        return self.attention_map(skip, coarse) * skip


class MapNetwork(nn.Module):
    """HU windows, backbone, pyramid, two heads (1 and 4 outputs per anchor) and perhaps the segmentation branch.

    The heads see the coarsest `levels` levels of the pyramid; a segmentation branch starts from its first, P2.
    """

    def __init__(
        self,
        windows: Windows,
        backbone: Backbone,
        pyramid: Pyramid,
        classification: Head,
        regression: Head,
        segmentation: SegmentationBranch | None,
        levels: int,
    ) -> None:
        super().__init__()
        self.windows = windows
        self.backbone = backbone
        self.pyramid = pyramid
        self.classification = classification
        self.regression = regression
        self.segmentation = segmentation
        self.levels = levels

    def forward(self, images: Tensor) -> RawMaps:
        """Raw maps of images (B, slices, H, W) in [-1, 1], windowed, then cast to the type of the first weights."""
        images = self.windows(images).to(next(self.parameters()).dtype)
        features = self.backbone(images)
        pyramid = self.pyramid(features)
        levels = pyramid[-self.levels :]
        logits = self.classification(levels)  # (B, A, 1)
        offsets = self.regression(levels)  # (B, A, 4)
        mask_logits = None if self.segmentation is None else self.segmentation(images, features[0], pyramid[0])
        cells = [level.shape[-2] * level.shape[-1] for level in levels]
        per_cell = logits.shape[1] // sum(cells)
        return RawMaps(logits.squeeze(-1), offsets, mask_logits, tuple(per_cell * n for n in cells))


def _upsampled(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")


def _initialise(*convolutions: nn.Conv2d) -> None:
    """As torchvision does in its pyramid."""
    for convolution in convolutions:
        nn.init.kaiming_uniform_(convolution.weight, a=1)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
