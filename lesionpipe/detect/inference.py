"""A trained detector made ready for use: batches of HU in, predictions out, in less time, whatever its family.

Batch norms, constant after training, are folded into the convolutions before them. For bf16 the weights are cast once;
under autocast every call would cast all of them again, which on a CPU takes a fifth of the time of a slice.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lesionpipe.core.devices import compile_network
from lesionpipe.data.samples import prepare
from lesionpipe.detectors.float32_conv import Float32Conv2d
from lesionpipe.detectors.interface import DecodingSettings, Detector, Prediction

CAST_LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


class SliceDetector:
    """A detector for batches of slices as they are stored.

    Args:
        detector: trained; left as it is.
        hu_range: the HU that its training clipped to.
        precision: `bf16` or `32`, see `for_inference`.
        device: cpu, cuda, mps or xpu.
        compiled: let torch compile the network at its first call.

    Raises:
        UserError: torch can't compile here.
    """

    def __init__(
        self, detector: Detector, hu_range: tuple[int, int], precision: str, device: str, compiled: bool = False
    ) -> None:
        self.hu_range, self.device = hu_range, device
        self.detector = for_inference(detector, precision, device)
        if compiled:
            compile_network(self.detector, device, "detect.compile")

    @torch.inference_mode()
    def __call__(self, hu: Tensor, decoding: DecodingSettings, recist_margin: float | Tensor = 0.0) -> list[Prediction]:
        """A prediction for each image of int16 HU (B, slices, S, S), on `device`.

        `recist_margin`: stored px by which boxes reach beyond masks, one number or (B, 2) in x and y.
        """
        images = prepare(hu.to(self.device, non_blocking=True), self.hu_range, channels_last=True)
        margin = recist_margin.to(self.device) if isinstance(recist_margin, Tensor) else recist_margin
        return self.detector.predict(images, decoding, margin)


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
