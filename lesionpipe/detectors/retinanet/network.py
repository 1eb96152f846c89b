"""The network of RetinaNet: images -> raw maps, the same in training and in use (paper, sec. 2, Fig. 1).

`losses.py` compares the maps with targets, `decode.py` makes detections of them. Each improvement of the paper is a
switch of its own: `levels` (P2-P6 or P3-P7), `mask_branch`, `attention`.
"""

import contextlib
import functools
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lesionpipe.detectors.backbones import Backbone
from lesionpipe.detectors.retinanet.heads import Head
from lesionpipe.detectors.retinanet.pyramid import Pyramid, SegmentationBranch


class RawMaps(NamedTuple):
    """What the network predicts, float32, before any sigmoid; A anchors in the order of `anchors.grid.anchors_for`."""

    logits: Tensor  # (B, A) lesion logit
    offsets: Tensor  # (B, A, 4) box offsets, see `matching.encode_boxes`
    mask_logits: Tensor | None  # (B, H, W) lesion logit per pixel
    level_sizes: tuple[int, ...]  # anchors in each level, finest first; their sum is A


class MapNetwork(nn.Module):
    """Backbone, pyramid, two heads (1 and 4 outputs per anchor) and perhaps the segmentation branch.

    The heads see the coarsest `levels` levels of the pyramid; a segmentation branch starts from its first, P2.
    """

    def __init__(
        self,
        backbone: Backbone,
        pyramid: Pyramid,
        classification: Head,
        regression: Head,
        segmentation: SegmentationBranch | None,
        levels: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pyramid = pyramid
        self.classification = classification
        self.regression = regression
        self.segmentation = segmentation
        self.levels = levels

    def forward(self, images: Tensor) -> RawMaps:
        """Raw maps of images (B, slices, H, W) in [-1, 1], cast to the type of the first weights."""
        images = images.to(next(self.parameters()).dtype)
        features = self.backbone(images)
        pyramid = self.pyramid(features)
        levels = pyramid[-self.levels :]
        logits = self.classification(levels)  # (B, A, 1)
        offsets = self.regression(levels)  # (B, A, 4)
        mask_logits = None if self.segmentation is None else self.segmentation(images, features[0], pyramid[0])
        cells = [level.shape[-2] * level.shape[-1] for level in levels]
        per_cell = logits.shape[1] // sum(cells)
        return RawMaps(logits.squeeze(-1), offsets, mask_logits, tuple(per_cell * n for n in cells))

    @torch.no_grad()
    def attention_maps(self, images: Tensor) -> dict[str, Tensor]:
        """The gates' maps for images (B, slices, H, W): name of the gated skip (C1 … C4) -> (B, 1, h, w) in (0, 1)."""
        gates = {f"C{self.pyramid.first + i}": gate for i, gate in enumerate(self.pyramid.gates)}
        if self.segmentation is not None and self.segmentation.gate is not None:
            gates["C1"] = self.segmentation.gate
        maps: dict[str, Tensor] = {}
        with contextlib.ExitStack() as hooks:
            for name, gate in gates.items():
                hook = functools.partial(_keep_output, maps, name)
                hooks.enter_context(gate.attention.register_forward_hook(hook))
            self.forward(images)  # not through __call__: a compiled network ignores hooks added after its first call
        return dict(sorted(maps.items()))


def _keep_output(maps: dict[str, Tensor], name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
    maps[name] = output
