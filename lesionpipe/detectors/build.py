"""From the section `network` of `params.yaml` to a detector; a new family is one more case."""

from typing import assert_never

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.detectors.interface import Detector
from lesionpipe.detectors.retinanet.detector import build_retinanet
from lesionpipe.params import Network, Preprocess


def build_detector(network: Network, preprocess: Preprocess, anchors: AnchorSet) -> Detector:
    """The detector, with the pretrained weights that `network` names, for images as `preprocess` leaves them.

    Raises:
        UserError: pretrained weights can't be had or don't fit, or the anchors (px of such images) don't go with the
            network.
    """
    match network.kind:
        case "retinanet":
            return build_retinanet(network, preprocess, anchors)
        case unknown:
            assert_never(unknown)
