"""A trained detector made ready for use: the same answers in less time, whatever its family.

Batch norms, constant after training, are folded into the convolutions before them. For bf16 the weights are cast once;
under autocast every call would cast all of them again, which on a CPU takes a fifth of the time of a slice.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lesionpipe.core.devices import compile_network
from lesionpipe.detectors.interface import Detector, Float32Conv2d

CAST_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def for_inference(detector: Detector, precision: str, device: str = "cpu", compiled: bool = False) -> Detector:
    """A copy of the detector in eval mode, channels last, on `device` (cpu, cuda, mps or xpu).

    Args:
        detector: left as it is.
        precision: `bf16`: weights, and so the arithmetic, in bfloat16 but for the predicting layers; `32`: in float32.
            No autocast is needed.
        device: where the copy goes.
        compiled: let torch compile the network at its first call.

    Raises:
        UserError: torch can't compile here.
    """
    ready = fold_batch_norms(copy.deepcopy(detector).eval())
    ready = ready.to(device=device, memory_format=torch.channels_last)
    if precision == "bf16":
        for layer in ready.modules():  # layers alone: of the buffers, anchors in bfloat16 would be off by pixels
            if isinstance(layer, CAST_LAYERS) and not isinstance(layer, Float32Conv2d):
                layer.to(torch.bfloat16)
    if compiled:
        compile_network(ready, device, "detect.compile")
    return ready.requires_grad_(False)


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
