"""The segmentation branch: P2 -> P1 -> full resolution -> one lesion logit per pixel (paper, sec. 2.2, Fig. 1).

Two more upsampling layers follow P2. The first is fused with C1 through a 1x1 convolution (and an attention gate where
wanted), the second with the input image through two 3x3 convolutions; then comes the prediction layer.

Channels: an eighth of the pyramid's at stride 2 (at least 16), a thirty-second at full resolution (at least 8), so 32
and 8 in the paper's setting. A map at full resolution has 16 times the pixels of P2, so that reading and writing it
costs more than the arithmetic on it.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from lesionpipe.detectors.float32_conv import Float32Conv2d
from lesionpipe.detectors.retinanet.attention import build_gate
from lesionpipe.detectors.retinanet.heads import PRIOR_LOGIT


class SegmentationBranch(nn.Module):
    """Lesion logits at full resolution.

    Args:
        slices: channels of the input image.
        c1_channels: channels of C1.
        channels: channels of P2.
        attention: gate the skip connection from C1.
    """

    def __init__(self, slices: int, c1_channels: int, channels: int, attention: bool) -> None:
        super().__init__()
        half, full = max(16, channels // 8), max(8, channels // 32)  # channels at stride 2 and at full resolution
        self.reduce_p2 = nn.Conv2d(channels, half, 1)
        self.skip_c1 = nn.Conv2d(c1_channels, half, 1)
        self.gate = build_gate(attention, half, half)
        self.reduce_p1 = nn.Conv2d(half, full, 3, padding=1)
        self.skip_input = nn.Sequential(
            nn.Conv2d(slices, full, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(full, full, 3, padding=1)
        )
        self.prediction = Float32Conv2d(full, 1, 3, padding=1)
        hidden = (self.reduce_p2, self.skip_c1, self.reduce_p1, self.skip_input[0], self.skip_input[2])
        for convolution in (*hidden, self.prediction):
            nn.init.kaiming_uniform_(convolution.weight, a=1)
            nn.init.zeros_(convolution.bias)
        nn.init.normal_(self.prediction.weight, std=0.01)
        nn.init.constant_(self.prediction.bias, PRIOR_LOGIT)

    def forward(self, images: Tensor, c1: Tensor, p2: Tensor) -> Tensor:
        """Images (B, slices, H, W), C1 at stride 2 and P2 at stride 4 -> float32 mask logits (B, H, W)."""
        coarse = self.reduce_p2(p2)
        skip = self.gate(self.skip_c1(c1), coarse)
        p1 = _upsampled(coarse, c1).add_(skip).relu_()
        p0 = _upsampled(self.reduce_p1(p1), images).add_(self.skip_input(images)).relu_()
        return self.prediction(p0).squeeze(1)


def _upsampled(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[-2:], mode="nearest")
