"""The second stage's networks: a region's pooled features -> classes and a box, or a mask."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from lesionpipe.detectors.interface import Float32Linear
from lesionpipe.detectors.rcnn.sampling import LESION

MASK_LAYERS = 4  # 3x3 convolutions (Mask R-CNN)


class RegionHead(nn.Module):
    """Connected layers, then a logit for each class and the deltas of the lesion's box.

    Args:
        pool: maps and boxes -> (K, channels, bins, bins).
        inputs: channels * bins².
        width: of the connected layers.
        depth: number of connected layers.
        dropout: share of their outputs that is dropped in training.
        classes: background, lesion, and perhaps hard negatives.
    """

    def __init__(self, pool: nn.Module, inputs: int, width: int, depth: int, dropout: float, classes: int) -> None:
        super().__init__()
        self.pool = pool
        layers = []
        for before, after in pairwise([inputs, *[width] * depth]):
            layers += [nn.Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers)
        self.classification = Float32Linear(width, classes)
        self.deltas = Float32Linear(width, 4)
        for layer in layers[::3]:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.normal_(self.classification.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (*layers[::3], self.classification, self.deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Maps (B, C, h, w) and boxes (k, 4) of each image -> float32 logits (K, classes) and deltas (K, 4)."""
        features = self.pool(maps, boxes).flatten(1)
        features = self.layers(features.to(self.layers[0].weight.dtype))
        return self.classification(features).float(), self.deltas(features).float()


class MaskHead(nn.Module):
    """torchvision's mask head: four 3x3 convolutions, one that doubles the side, one logit per pixel.

    Args:
        pool: maps and boxes -> (P, channels, 14, 14).
        channels: of the maps and of all layers.
    """

    def __init__(self, pool: nn.Module, channels: int) -> None:
        super().__init__()
        self.pool = pool
        self.layers = MaskRCNNHeads(channels, [channels] * MASK_LAYERS, dilation=1)
        self.prediction = MaskRCNNPredictor(channels, channels, num_classes=LESION)

    def forward(self, maps: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, h, w) and boxes (p, 4) of each image -> float32 logits (P, 28, 28)."""
        features = self.pool(maps, boxes)
        features = features.to(self.layers[0][0].weight.dtype)
        return self.prediction(self.layers(features)).float().squeeze(1)


def lesion_probability(logits: Tensor) -> Tensor:
    """(K, classes) -> (K,)."""
    return torch.softmax(logits, dim=1)[:, LESION]
