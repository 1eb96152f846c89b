"""The network of RetinaNet: images -> raw maps, and nothing else (paper, sec. 2, Fig. 1).

The same result in training and in use; `losses.py` compares it with targets, `decode.py` makes detections of it. Each
improvement of the paper is a switch of its own: `levels` (P2-P6 or P3-P7), `mask_branch`, `attention`.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from lesionpipe.detectors.backbones import Backbone
from lesionpipe.detectors.retinanet.attention import AttentionMap
from lesionpipe.detectors.retinanet.heads import Head
from lesionpipe.detectors.retinanet.pyramid import Pyramid
from lesionpipe.detectors.retinanet.segmentation import SegmentationBranch


class RawMaps(NamedTuple):
    """What the network predicts, float32, before any sigmoid; A anchors in the order of `anchors.grid.anchors_for`."""

    logits: Tensor  # (B, A) lesion logit
    offsets: Tensor  # (B, A, 4) box offsets, see `box_code.encode_boxes`
    mask_logits: Tensor | None  # (B, H, W) lesion logit per pixel
    level_sizes: tuple[int, ...]  # anchors in each level, finest first; their sum is A


class MapNetwork(nn.Module):
    """Backbone, pyramid, two heads and perhaps the segmentation branch.

    Args:
        backbone: gives C1 … C5.
        pyramid: gives P2 (if there is a segmentation branch) or the first level of the heads, up to the last.
        classification, regression: heads of 1 and 4 outputs per anchor.
        segmentation: the mask branch, or None.
        levels: number of levels that the heads see, the coarsest ones of the pyramid.
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
        """The gates' maps for images (B, slices, H, W): name of the gated skip (C1 … C4) -> (B, 1, h, w) in (0, 1).

        Empty where the network has no gates.
        """
        maps: dict[str, Tensor] = {}
        gates = {name: module for name, module in self.named_modules() if isinstance(module, AttentionMap)}
        handles = [module.register_forward_hook(_keep(maps, self._skip_name(name))) for name, module in gates.items()]
        try:
            self.forward(images)  # not through __call__: a compiled network ignores hooks added after its first call
        finally:
            for handle in handles:
                handle.remove()
        return dict(sorted(maps.items()))

    def _skip_name(self, module_name: str) -> str:
        """`pyramid.gates.0.attention` -> the backbone level that this gate's skip comes from."""
        owner, *path = module_name.split(".")
        return "C1" if owner == "segmentation" else f"C{self.pyramid.first + int(path[1])}"


def _keep(maps: dict[str, Tensor], name: str):
    """A forward hook that stores a module's output in `maps` under `name`."""

    def hook(module: nn.Module, inputs: tuple, output: Tensor) -> None:
        maps[name] = output

    return hook
