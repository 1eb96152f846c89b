"""Which precision `auto` means: bfloat16 only where the processor or GPU multiplies it natively.

What a processor reports doesn't decide: its flags ignore an instruction set that ONEDNN_MAX_CPU_ISA or a hypervisor
holds back, and ARM's and Apple's say nothing about the kernels that torch has for them. So on a CPU a convolution in
either type is timed, in one thread and about a millisecond at a time, alternating, the fastest of each counting: the
same answer also beside other busy processes, whose time slices are longer. Both operands fit into the cache, so that
arithmetic counts and not memory. Measured (EPYC with AVX-512 BF16, training / detection, November 2026): 1.6 / 1.9
times as fast in bfloat16 natively, 0.4 / 0.4 times emulated with AVX-512, 0.1 / 0.2 times with AVX2. `NATIVE` lies in
the gap: what gains less isn't worth 16 of 24 bits.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

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

    def line(self, parameter: str) -> str:
        """What was chosen for `parameter`, for the user."""
        measured = "" if self.speedup is None else f" (bfloat16 runs {self.speedup:.2g} times as fast as float32 here)"
        return f"{parameter}: {self.precision}{measured}"

    def warning(self, parameter: str) -> str | None:
        """What to say where bfloat16 is asked for and slower than float32 or hardly faster."""
        if not self.bf16 or self.speedup is None or self.speedup >= NATIVE:
            return None
        return (
            f"warning: {parameter} = bf16, but bfloat16 is emulated here: {self.speedup:.2g} times as fast as float32; "
            "auto or 32 is faster"
        )


def choose_arithmetic(precision: str, device: str, training: bool) -> Arithmetic:
    """What `auto`, `bf16` or `32` means on a device (cpu, cuda, mps or xpu); draws no random numbers.

    `training`: whether gradients are computed as well; some processors have fast kernels for the forward pass alone.
    On Apple's mps torch can't say what is native, and `auto` is float32.
    """
    if precision == "32":
        return Arithmetic("32")
    if device == "cpu":
        speedup = bf16_speedup(device, training)
        return Arithmetic("bf16" if precision == "bf16" or speedup >= NATIVE else "32", speedup)
    native = multiplies_natively(device)
    if precision == "auto":
        return Arithmetic("bf16" if native else "32")
    return Arithmetic("bf16", None if native or device == "mps" else bf16_speedup(device, training))


def report_arithmetic(arithmetic: Arithmetic, parameter: str) -> None:
    """Print the precision used for `parameter`, and on stderr a warning where it is emulated."""
    print(arithmetic.line(parameter), flush=True)
    if warning := arithmetic.warning(parameter):
        print(warning, file=sys.stderr)


def multiplies_natively(device: str) -> bool:
    """Whether torch says so of a GPU."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "xpu" and torch.xpu.is_bf16_supported(including_emulation=False)


def bf16_speedup(device: str, training: bool) -> float:
    """Time of a convolution in float32 over that in bfloat16; less than 0.2 s."""
    with one_thread():
        works = [_convolution(dtype, device, training) for dtype in (torch.float32, torch.bfloat16)]
        for work in works:  # to warm up
            _seconds(work, device)
        start, times = time.perf_counter(), []
        while len(times) < ROUNDS.start or (len(times) < ROUNDS.stop and time.perf_counter() - start < ENOUGH_S):
            times.append([_seconds(work, device) for work in works])
    float32, bfloat16 = (min(column) for column in zip(*times, strict=True))
    return float32 / bfloat16


def _convolution(dtype: torch.dtype, device: str, training: bool) -> Callable[[], object]:
    image = _ramp((IMAGES, CHANNELS, SIDE, SIDE), dtype, device).requires_grad_(training)
    weight = _ramp((CHANNELS, CHANNELS, 3, 3), dtype, device).requires_grad_(training)

    def work() -> object:
        result = F.conv2d(image, weight, padding=1)
        return torch.autograd.grad(result, (image, weight), torch.ones_like(result)) if training else result

    return work


def _ramp(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """Some numbers, not drawn at random."""
    values = torch.linspace(-1, 1, torch.Size(shape).numel()).reshape(shape)
    return values.to(device=device, dtype=dtype, memory_format=torch.channels_last)


def _seconds(work: Callable[[], object], device: str) -> float:
    start = time.perf_counter()
    work()
    if device != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute in one thread; then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
