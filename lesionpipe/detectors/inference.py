"""A trained detector made ready for use: the same answers in less time, whatever its family.

Batch norms, constant after training, are folded into the convolutions before them. For bf16 the weights are cast once;
under autocast every call would cast all of them again, which on a CPU takes a fifth of the time of a slice.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lesionpipe.detectors.float32_conv import Float32Conv2d
from lesionpipe.detectors.interface import Detector

CAST_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def for_inference(detector: Detector, precision: str, device: str | torch.device = "cpu") -> Detector:
    """A copy of the detector in eval mode, channels last, on `device`.

    Args:
        detector: left as it is.
        precision: `bf16`: weights, and so the arithmetic, in bfloat16 but for the predicting layers; `32`: in float32.
            No autocast is needed.
        device: where the copy goes.
    """
    ready = fold_batch_norms(copy.deepcopy(detector).eval())
    ready = ready.to(device=device, memory_format=torch.channels_last)
    if precision == "bf16":
        cast_layers(ready, torch.bfloat16)
    return ready.requires_grad_(False)


def cast_layers(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the weights of convolutions and linear layers in place, but for layers that compute in float32.

    Buffers stay as they are: anchors in bfloat16 would be off by pixels.
    """
    for layer in module.modules():
        if isinstance(layer, CAST_LAYERS) and not isinstance(layer, Float32Conv2d):
            layer.to(dtype)


def fold_batch_norms(module: nn.Module) -> nn.Module:
    """Fold each batch norm behind a convolution into it, in place; in eval mode answers change by rounding only."""
    convolution_name = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and convolution_name is not None:
            convolution = getattr(module, convolution_name)
            setattr(module, convolution_name, fuse_conv_bn_eval(convolution, child))
            setattr(module, name, nn.Identity())
        convolution_name = name if isinstance(child, nn.Conv2d) else None
        fold_batch_norms(child)
    return module
