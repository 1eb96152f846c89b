"""The two-stage detectors of the paper's Table 1, put together from their parts.

| kind | maps | regions pooled | connected layers |
|---|---|---|---|
| faster-rcnn | trunk at `network.stride` | RoIAlign 7x7 | 2, dropout 0.5 |
| mask-rcnn | P2 … P6 of `network.channels` | RoIAlign 7x7, and 14x14 for masks | 2 |
| 3dce | trunk of each of M images, 490 channels each | position-sensitive RoIAlign 7x7 of 490 M channels | 1 |

Connected layers are four times as wide as the maps have channels, which is the 2,048 of 3DCE with VGG's 512 and the
1,024 of Mask R-CNN with a pyramid of 256.
"""

from lesionpipe.anchors.grid import AnchorSet, strides_of
from lesionpipe.detectors.backbones import Backbone, build_backbone
from lesionpipe.detectors.rcnn.detector import RegionDetector
from lesionpipe.detectors.rcnn.features import IMAGE_SLICES, ContextMaps, PyramidMaps, SingleMap, Trunk
from lesionpipe.detectors.rcnn.heads import MaskHead, RegionHead
from lesionpipe.detectors.rcnn.pooling import AlignedPool, SensitivePool
from lesionpipe.detectors.rcnn.proposals import ProposalHead
from lesionpipe.detectors.windows import Windows
from lesionpipe.params import Network, Preprocess

BINS, MASK_BINS = 7, 14
DEPTH = 10  # channels per bin and image (3DCE)
CONNECTED_WIDTH = 4  # of the connected layers, times the channels of the maps
RATIOS = (0.5, 1.0, 2.0)
TRUNK_SIZE_PX, TRUNK_SCALES = 8.0, (2.0, 3.0, 4.0, 6.0, 12.0)  # 16 … 96 px of a 512 px slice (3DCE)
PYRAMID_LEVELS = (2, 3, 4, 5, 6)
PYRAMID_SIZE, PYRAMID_SCALES = 4.0, (0.5, 1.0)  # strides; so each size stands on two levels, but for the ends


def region_anchors(kind: str, stride: int, image_size: int) -> AnchorSet:
    """The fixed anchors of a kind, in px of the stored slice; `stride` is that of a trunk."""
    if kind == "mask-rcnn":
        strides = strides_of(PYRAMID_LEVELS)
        return AnchorSet(tuple(PYRAMID_SIZE * step for step in strides), PYRAMID_SCALES, RATIOS, strides)
    return AnchorSet((TRUNK_SIZE_PX,), TRUNK_SCALES, RATIOS, (stride,)).scaled(image_size / 512)


def build_faster_rcnn(params: Network, preprocess: Preprocess, anchors: AnchorSet) -> RegionDetector:
    """Faster R-CNN; arguments and errors as in `build_detector`."""
    trunk, size = Trunk(_backbone(params, preprocess.slices), params.stride), preprocess.image_size
    pool = AlignedPool(BINS, [params.stride], size / 512)
    head = RegionHead(pool, trunk.channels * BINS**2, CONNECTED_WIDTH * trunk.channels, 2, 0.5, _classes(params))
    proposal_head = ProposalHead(trunk.channels, params.head_channels, anchors.per_cell)
    parts = Windows(params.windows, preprocess.hu), SingleMap(trunk), proposal_head, head, None
    return RegionDetector(*parts, anchors, size, sampled_regions=32, nms_iou=0.3)


def build_mask_rcnn(params: Network, preprocess: Preprocess, anchors: AnchorSet) -> RegionDetector:
    """Mask R-CNN; arguments and errors as in `build_detector`."""
    channels, size = params.channels, preprocess.image_size
    features = PyramidMaps(_backbone(params, preprocess.slices), channels)
    judging = anchors.strides[:-1], size / 512
    pool, mask_pool = AlignedPool(BINS, *judging), AlignedPool(MASK_BINS, *judging)
    head = RegionHead(pool, channels * BINS**2, CONNECTED_WIDTH * channels, 2, 0.0, _classes(params))
    proposal_head = ProposalHead(channels, params.head_channels, anchors.per_cell)
    parts = Windows(params.windows, preprocess.hu), features, proposal_head, head, MaskHead(mask_pool, channels)
    return RegionDetector(*parts, anchors, size, sampled_regions=64, nms_iou=0.5)


def build_3dce(params: Network, preprocess: Preprocess, anchors: AnchorSet) -> RegionDetector:
    """3DCE, each three slices one of its M images; arguments and errors as in `build_detector`."""
    trunk, count = Trunk(_backbone(params, IMAGE_SLICES), params.stride), preprocess.slices // IMAGE_SLICES
    inputs, width = count * DEPTH * BINS**2, CONNECTED_WIDTH * trunk.channels
    head = RegionHead(SensitivePool(BINS, params.stride), inputs, width, 1, 0.0, _classes(params))
    proposal_head = ProposalHead(trunk.channels, params.head_channels, anchors.per_cell)
    features = ContextMaps(trunk, count, BINS, DEPTH)
    parts = Windows(params.windows, preprocess.hu), features, proposal_head, head, None
    return RegionDetector(*parts, anchors, preprocess.image_size, sampled_regions=32, nms_iou=0.3)


def _backbone(params: Network, slices: int) -> Backbone:
    """For images of so many slices, each once more in each window."""
    return build_backbone(params.backbone, params.weights, slices * (1 + len(params.windows)))


def _classes(params: Network) -> int:
    """Background, lesion and, where wanted, hard negatives."""
    return 3 if params.hard_negative_class else 2
