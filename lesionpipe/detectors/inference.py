"""A trained network made ready for use: the same answers in less time.

Batch norms, constant after training, are folded into the convolutions before them. For bf16 the weights are cast once;
under autocast every call would cast all of them anew, which on a CPU takes a fifth of the time of a slice.
"""

import copy

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lesionpipe.detectors.retinanet.network import Network


def for_inference(network: Network, precision: str, device: str | torch.device = "cpu") -> Network:
    """A copy of the network in eval mode, channels last, on `device`.

    Args:
        network: left as it is.
        precision: `bf16`: weights, and so all arithmetic, in bfloat16; `32`: in float32. No autocast is needed.
        device: where the copy goes.
    """
    ready = fold_batch_norms(copy.deepcopy(network).eval())
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    ready = ready.to(device=device, dtype=dtype, memory_format=torch.channels_last)
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
