"""RetinaNet behind the interface of all detectors; the paper's four rows are this family with different anchors and
switches (paper, Table 1)."""

import torch
from torch import Tensor

from lesionpipe.anchors.grid import AnchorSet, anchors_for, level_numbers, strides_of
from lesionpipe.core.errors import UserError
from lesionpipe.detectors.backbones import build_backbone
from lesionpipe.detectors.interface import DecodingSettings, Detector, Prediction, Share, Targets
from lesionpipe.detectors.retinanet.decode import decode_maps
from lesionpipe.detectors.retinanet.heads import PRIOR_LOGIT, Head
from lesionpipe.detectors.retinanet.losses import anchor_targets, count_targets, detection_losses
from lesionpipe.detectors.retinanet.network import MapNetwork, Pyramid, SegmentationBranch
from lesionpipe.detectors.windows import Windows
from lesionpipe.params import Network, Preprocess

NMS_IOU = 0.5  # RetinaNet's
MASK_LEVEL = 2  # the pyramid level that the segmentation branch starts from


class RetinaNet(Detector):
    """A network, its anchors, and the side (px) of the images that it mostly sees; of others they are made anew."""

    def __init__(self, network: MapNetwork, anchor_set: AnchorSet, image_size: int) -> None:
        super().__init__()
        self.network = network
        self.anchor_set = anchor_set
        self.image_size = image_size
        self.stride = anchor_set.strides[-1]
        anchors = torch.from_numpy(anchors_for(anchor_set, image_size, image_size))
        self.register_buffer("anchors", anchors, persistent=False)  # (A, 4) float32
        self.loss_names = ("classification", "box", *(() if network.segmentation is None else ("mask",)))

    def losses(self, images: Tensor, targets: Targets, share: Share) -> dict[str, Tensor]:
        if "mask" in self.loss_names and targets.masks is None:
            raise ValueError("the network has a mask branch but the targets hold no masks")
        raw = self.network(images)
        wanted = anchor_targets(self._anchors_of(images), targets, tuple(images.shape[-2:]))
        return detection_losses(raw, wanted, share(count_targets(wanted)))

    @torch.no_grad()
    def predict(
        self, images: Tensor, settings: DecodingSettings, recist_margin: float | Tensor = 0.0
    ) -> list[Prediction]:
        raw = self.network(images)
        settings, size = settings.with_nms_iou(NMS_IOU), tuple(images.shape[-2:])
        return decode_maps(raw, self._anchors_of(images), settings, size, recist_margin)

    def compile(self) -> None:
        """Compile the network alone: matching and decoding have shapes that depend on the data."""
        self.network.compile()

    def _anchors_of(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if height == width == self.image_size:
            return self.anchors
        return torch.from_numpy(anchors_for(self.anchor_set, height, width)).to(self.anchors.device)


def build_retinanet(params: Network, preprocess: Preprocess, anchors: AnchorSet) -> RetinaNet:
    """The RetinaNet that the section `network` describes; arguments and errors as in `build_detector`."""
    levels = level_numbers(params.levels)
    if anchors.strides != strides_of(levels):
        raise UserError(
            f"anchors of strides {list(anchors.strides)}, but network.levels = {params.levels} has "
            f"{list(strides_of(levels))}; run `dvc repro anchors`"
        )
    windows = Windows(params.windows, preprocess.hu)
    channels = preprocess.slices * (1 + len(params.windows))
    backbone = build_backbone(params.backbone, params.weights, channels)
    gated_pyramid, gated_mask = (params.attention in (True, place) for place in ("pyramid", "mask"))
    segmentation, first = None, levels[0]
    if params.mask_branch:
        segmentation = SegmentationBranch(channels, backbone.channels[0], params.channels, gated_mask)
        first = min(MASK_LEVEL, first)
    pyramid = Pyramid(backbone.channels, params.channels, first, levels[-1], gated_pyramid)
    head = (params.channels, params.head_channels, params.head_depth, anchors.per_cell)
    classification = Head(*head, outputs_per_anchor=1, initial_bias=PRIOR_LOGIT)
    regression = Head(*head, outputs_per_anchor=4)
    network = MapNetwork(windows, backbone, pyramid, classification, regression, segmentation, len(levels))
    return RetinaNet(network, anchors, preprocess.image_size)
