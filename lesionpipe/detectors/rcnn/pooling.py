"""Regions of any size -> features of one size: torchvision's RoI operations, on the grid where pixels really lie.

`MultiScaleRoIAlign` would shift regions by half a cell (`aligned=False`), which is 4 px at stride 8, and `PSRoIPool`
rounds their edges to whole cells; bfloat16 is cast to float32, for which these operations have kernels.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_area, ps_roi_align, roi_align

SAMPLES = 2  # per bin along each axis, of which the mean is taken
CANONICAL_PX, CANONICAL_STRIDE = 224, 16  # such a region belongs to P4 (FPN, eq. 1)


class AlignedPool(nn.Module):
    """RoIAlign from the level that suits a region's size.

    Args:
        bins: along each side of a pooled region.
        strides: of the maps, px, finest first.
        scale: side of the images over 512 px; larger images hold larger lesions.
    """

    def __init__(self, bins: int, strides: Sequence[int], scale: float) -> None:
        super().__init__()
        self.bins, self.strides, self.scale = bins, tuple(strides), scale

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) and boxes (k, 4) of each image, K in all -> float32 (K, C, bins, bins)."""
        rois = with_image(boxes)
        level = self.levels(rois[:, 1:])
        pooled = rois.new_zeros(len(rois), maps[0].shape[1], self.bins, self.bins)
        for i, (features, stride) in enumerate(zip(maps, self.strides, strict=True)):
            own = torch.nonzero(level == i).squeeze(1)
            pooled[own] = roi_align(features.float(), rois[own], self.bins, 1 / stride, SAMPLES, aligned=True)
        return pooled

    def levels(self, boxes: Tensor) -> Tensor:
        """Which map each box (K, 4) is pooled from: int64 (K,)."""
        relative = box_area(boxes).sqrt() / (CANONICAL_PX * self.scale)
        finest = math.log2(CANONICAL_STRIDE / self.strides[0])
        return (finest + relative.log2()).floor().clamp(0, len(self.strides) - 1).long()


class SensitivePool(nn.Module):
    """Position-sensitive RoIAlign: bin (i, j) of output channel c is the mean of map (c bins + i) bins + j (R-FCN)."""

    def __init__(self, bins: int, stride: int) -> None:
        super().__init__()
        self.bins, self.stride = bins, stride

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """One map (B, C bins², h, w) and boxes (k, 4) of each image -> float32 (K, C, bins, bins)."""
        return ps_roi_align(maps[0].float(), with_image(boxes), self.bins, 1 / self.stride, SAMPLES)


def with_image(boxes: Sequence[Tensor]) -> Tensor:
    """Boxes (k, 4) of each image -> (K, 5): the image's number, then the box."""
    return torch.cat([F.pad(own, (1, 0), value=image) for image, own in enumerate(boxes)])
