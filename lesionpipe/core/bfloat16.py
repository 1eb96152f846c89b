"""Which precision `auto` means: bfloat16 only where the processor or GPU multiplies it natively.

A processor's flags don't decide: they ignore an instruction set that ONEDNN_MAX_CPU_ISA or a hypervisor holds back, and
on ARM they say nothing about torch's kernels. So on a CPU a convolution that fits into the cache is timed in either
type, in one thread, about a millisecond at a time, alternating, the fastest of each counting: the same answer also
beside other busy processes, whose time slices are longer. Measured (EPYC with AVX-512 BF16, training / detection,
November 2026): 1.6 / 1.9 times as fast in bfloat16 natively, 0.4 / 0.4 times emulated with AVX-512, 0.1 / 0.2 times
with AVX2. `NATIVE` lies in the gap: what gains less isn't worth 16 of 24 bits.
"""

import sys
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F

NATIVE = 1.2  # times as fast as float32
CHANNELS, SIDE, IMAGES = 64, 16, 2
ROUNDS = range(3, 20)  # fewest and most of the timing
ENOUGH_S = 0.06  # after which no further round starts


class Arithmetic(NamedTuple):
    """The precision that is used, and how it was found."""

    precision: Literal["bf16", "32"]
    speedup: float | None = None  # of bfloat16 over float32 here, where it was measured

    @property
    def bf16(self) -> bool:
        """Whether networks compute in bfloat16, but for their predicting layers."""
        return self.precision == "bf16"


def choose_arithmetic(precision: str, device: str, training: bool) -> Arithmetic:
    """What `auto`, `bf16` or `32` means on a device (cpu, cuda, mps or xpu); draws no random numbers.

    `training`: whether gradients are computed as well; some processors have fast kernels for the forward pass alone.
    On Apple's mps torch can't say what is native, and `auto` is float32.
    """
    if precision == "32":
        return Arithmetic("32")
    native, speedup = None, None
    if device in ("cuda", "xpu"):
        native = getattr(torch, device).is_bf16_supported(including_emulation=False)
    if device == "cpu" or (precision == "bf16" and native is False):
        speedup = bf16_speedup(device, training)
        native = speedup >= NATIVE
    return Arithmetic("bf16" if precision == "bf16" or native else "32", speedup)


def report_arithmetic(arithmetic: Arithmetic, parameter: str) -> None:
    """Print the precision used for `parameter`, and on stderr a warning where bfloat16 is hardly faster or slower."""
    precision, speedup = arithmetic
    measured = "" if speedup is None else f" (bfloat16 runs {speedup:.2g} times as fast as float32 here)"
    print(f"{parameter}: {precision}{measured}", flush=True)
    if arithmetic.bf16 and speedup is not None and speedup < NATIVE:
        print(
            f"warning: {parameter} = bf16, but bfloat16 is emulated here: {speedup:.2g} times as fast as float32; "
            "auto or 32 is faster",
            file=sys.stderr,
        )


def bf16_speedup(device: str, training: bool) -> float:
    """Time of a convolution in float32 over that in bfloat16; takes less than 0.2 s."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        convolutions = [_timed_convolution(dtype, device, training) for dtype in (torch.float32, torch.bfloat16)]
        times = [[seconds() for seconds in convolutions]]  # the first round warms up
        start = time.perf_counter()
        while len(times) <= ROUNDS.start or (len(times) <= ROUNDS.stop and time.perf_counter() - start < ENOUGH_S):
            times.append([seconds() for seconds in convolutions])
    finally:
        torch.set_num_threads(threads)
    float32, bfloat16 = (min(column) for column in zip(*times[1:], strict=True))
    return float32 / bfloat16


def _timed_convolution(dtype: torch.dtype, device: str, training: bool) -> Callable[[], float]:
    """A function that computes a convolution, with its gradients if `training`, and returns the seconds it took."""
    shapes, layout = ((IMAGES, CHANNELS, SIDE, SIDE), (CHANNELS, CHANNELS, 3, 3)), torch.channels_last
    numbers = [torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape) for shape in shapes]
    image, weight = (n.to(device, dtype, memory_format=layout).requires_grad_(training) for n in numbers)

    def seconds() -> float:
        start = time.perf_counter()
        result = F.conv2d(image, weight, padding=1)
        if training:
            torch.autograd.grad(result, (image, weight), torch.ones_like(result))
        if device != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    return seconds
