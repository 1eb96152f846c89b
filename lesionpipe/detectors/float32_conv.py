"""The layer that predicts: a convolution in float32, also where all layers before it compute in bfloat16.

bfloat16 keeps 8 bits: logits near -3 would come in steps of 1/64, and of 14,500 detections only some 370 had a score of
their own. NMS, mAP and FROC order detections by their scores, so ties are decided by the order of the input. A training
step orders nothing and its losses are computed in float32 anyway, while the layer in float32 takes a fifth of the step.
"""

import torch
from torch import Tensor, nn


class Float32Conv2d(nn.Conv2d):
    """In eval mode input, weights, arithmetic and output are float32, also in autocast; in training it decides."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())
