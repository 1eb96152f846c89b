"""Section `network`: the detector."""

from typing import Literal

from pydantic import Field

from lesionpipe.params.section import Section


class Network(Section):
    kind: Literal["retinanet"]
    backbone: Literal["small", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "resnet50"]
    weights: str | None
    levels: Literal["P2-P6", "P3-P7"]
    channels: int = Field(ge=8, le=1024, multiple_of=8)
    head_depth: int = Field(ge=1, le=8)
    head_channels: int = Field(ge=8, le=1024, multiple_of=8)
    mask_branch: bool
    attention: bool
