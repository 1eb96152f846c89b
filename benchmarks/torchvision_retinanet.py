"""The peer in speed (detector.py) and accuracy: torchvision's RetinaNet with our backbone, levels, anchors per cell."""

from collections import OrderedDict

from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from lesionpipe.anchors.grid import AnchorSet, level_numbers
from lesionpipe.detectors.backbones import build_backbone
from lesionpipe.detectors.interface import DecodingSettings
from lesionpipe.params import Network


class TorchvisionBackbone(nn.Module):
    """Our backbone under torchvision's pyramid, with P6 (and P7) as in ours."""

    def __init__(self, params: Network, channels: int) -> None:
        super().__init__()
        first, last = level_numbers(params.levels)[0], level_numbers(params.levels)[-1]
        self.body = build_backbone(params.backbone, params.weights, channels)
        self.first = first
        self.out_channels = params.channels
        extra = CoarseLevels(self.body.channels[-1], params.channels, last - 5)
        self.fpn = FeaturePyramidNetwork(list(self.body.channels[first - 1 :]), params.channels, extra)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.body(images)[self.first - 1 :]
        return self.fpn(OrderedDict((str(i), f) for i, f in enumerate(features)))


class CoarseLevels(ExtraFPNBlock):
    """P6, and P7 where asked for, on C5."""

    def __init__(self, top: int, channels: int, count: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(w, channels, 3, 2, 1) for w in (top, channels)[:count])

    def forward(self, results: list[Tensor], x: list[Tensor], names: list[str]) -> tuple[list[Tensor], list[str]]:
        levels, last = [], x[-1]
        for layer in self.layers:
            last = layer(last.relu() if levels else last)
            levels.append(last)
        return results + levels, names + [f"extra{i}" for i in range(len(levels))]


def torchvision_network(
    params: Network,
    anchors: AnchorSet,
    decoding: DecodingSettings,
    size: int,
    compiled: bool = False,
    channels: int = 3,
) -> RetinaNet:
    """torchvision's RetinaNet of the same parts for images of `channels` in [-1, 1].

    Its resizing and normalising, which ours leaves to the data stages, are switched off.
    `compiled`: backbone, pyramid and heads; the rest has shapes that depend on the data.
    """
    sizes = tuple(tuple(size * scale for scale in anchors.scales) for size in anchors.sizes)
    network = RetinaNet(
        TorchvisionBackbone(params, channels),
        num_classes=1,
        anchor_generator=AnchorGenerator(sizes, (anchors.ratios,) * len(sizes)),
        score_thresh=decoding.score_threshold,
        nms_thresh=decoding.nms_iou,
        detections_per_img=decoding.detections_per_image,
        topk_candidates=decoding.topk_candidates,
        min_size=size,
        max_size=size,
        image_mean=[0.0] * channels,
        image_std=[1.0] * channels,
        _skip_resize=True,
    )
    if compiled:
        network.backbone.compile()
        network.head.compile()
    return network
