"""From the section `network` of `params.yaml` to a detector; a new family is one more case."""

from typing import assert_never

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.detectors.interface import Detector
from lesionpipe.detectors.retinanet.detector import build_retinanet
from lesionpipe.params import Network


def build_detector(network: Network, slices: int, image_size: int, anchors: AnchorSet) -> Detector:
    """The detector that `network` describes, with the pretrained weights that it names.

    Args:
        network: the section of the parameters.
        slices: channels of the images.
        image_size: side of the images, px.
        anchors: in px of such images.

    Raises:
        UserError: pretrained weights can't be had or don't fit, or the anchors don't go with the network.
    """
    match network.kind:
        case "retinanet":
            return build_retinanet(network, slices, image_size, anchors)
        case unknown:
            assert_never(unknown)
