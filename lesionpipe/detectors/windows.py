"""HU windows as further channels of the input: within one, a few HU of contrast are a large part of the range.

The paper's range of 2,074 HU holds a lesion's contrast to soft tissue in two or three hundredths, which a network from
random weights finds late. A pretrained network may have windows too: `backbones.adapt_inputs` spreads its weights.
Images come in float32: in bfloat16 a narrow window far from the middle of the range would have a few steps only.
"""

import torch
from torch import Tensor, nn


class Windows(nn.Module):
    """Images (B, n, H, W) in [-1, 1] -> (B, n (1 + windows), H, W): the same, then once more for each window.

    Args:
        windows: (low, high) HU, which become -1 and 1; what lies beyond is cut off.
        hu: the range that the images' [-1, 1] stands for.
    """

    def __init__(self, windows: tuple[tuple[int, int], ...], hu: tuple[int, int]) -> None:
        super().__init__()
        middle, half = sum(hu) / 2, (hu[1] - hu[0]) / 2
        self.factors = [2 * half / (high - low) for low, high in windows]
        self.shifts = [(2 * middle - low - high) / (high - low) for low, high in windows]

    def forward(self, images: Tensor) -> Tensor:
        narrow = [(images * a + b).clamp(-1, 1) for a, b in zip(self.factors, self.shifts, strict=True)]
        return torch.cat([images, *narrow], dim=1)
