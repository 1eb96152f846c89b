"""From the section `network` of `params.yaml` to a detector; a new family is one more case."""

from typing import assert_never

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.detectors.interface import Detector
from lesionpipe.detectors.rcnn.build import build_3dce, build_faster_rcnn, build_mask_rcnn, region_anchors
from lesionpipe.detectors.retinanet.detector import build_retinanet
from lesionpipe.params import Network, Preprocess

RETINANET_ONLY = ("anchors", "network.head_depth", "network.mask_branch", "network.attention", "detect.calibrate")


def fixed_anchors(network: Network, image_size: int) -> AnchorSet | None:
    """The anchors of a kind that has its own, in px of slices of `image_size`; None: those of data/anchors.json."""
    return None if network.kind == "retinanet" else region_anchors(network.kind, network.stride, image_size)


def unused_parameters(kind: str) -> tuple[str, ...]:
    """Parameters, or sections of them, that have no effect on this kind although `params.yaml` doesn't say so there."""
    match kind:
        case "retinanet":
            return ()
        case "mask-rcnn":
            return RETINANET_ONLY
        case _:
            return (*RETINANET_ONLY, "network.channels", "train.mask_loss_weight")


def build_detector(network: Network, preprocess: Preprocess, anchors: AnchorSet) -> Detector:
    """The detector, with the pretrained weights that `network` names, for images as `preprocess` leaves them.

    Raises:
        UserError: pretrained weights can't be had or don't fit, or the anchors (px of such images) don't go with the
            network.
    """
    match network.kind:
        case "retinanet":
            return build_retinanet(network, preprocess, anchors)
        case "faster-rcnn":
            return build_faster_rcnn(network, preprocess, anchors)
        case "mask-rcnn":
            return build_mask_rcnn(network, preprocess, anchors)
        case "3dce":
            return build_3dce(network, preprocess, anchors)
        case unknown:
            assert_never(unknown)
