"""The optimisers (`train.optimizer`): Adam, the paper's (sec. 2.3), or Muon, which learns much more from each step.

Muon (Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024) moves the kernels of hidden layers
along their momentum made orthogonal: all directions of a kernel's input and output are learnt at the same speed, where
Adam follows the few that dominate the gradient. Biases, norms and the layers that predict stay with Adam.

torch's own `Muon` takes matrices alone and computes in bfloat16, which many processors emulate. Here it is float32, for
kernels of any shape, those of one shape together.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from lesionpipe.detectors.interface import Float32Conv2d, Float32Linear

# of the quintic Newton-Schulz iteration, Jordan et al.'s: five steps bring all but tiny singular values to 0.7 … 1.2
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5
MOMENTUM = 0.95
STEP_SIZE = 0.4  # root mean square of a step over the learning rate; Adam's is 0.2 to 0.4 (Liu et al., 2025: 0.2)


def build_optimizers(name: Literal["adam", "muon"], detector: nn.Module) -> list[Optimizer]:
    """The optimisers that together hold all parameters of a detector; the learning rate is set before each step."""
    if name == "adam":
        return [Adam(detector.parameters(), fused=True)]
    predicting = {id(own) for module in detector.modules() if _predicts(module) for own in module.parameters()}
    hidden = [own for own in detector.parameters() if own.ndim > 1 and len(own) > 1 and id(own) not in predicting]
    chosen = {id(own) for own in hidden}
    others = [own for own in detector.parameters() if id(own) not in chosen]
    return [Muon(hidden), Adam(others, fused=True)]


def _predicts(module: nn.Module) -> bool:
    return isinstance(module, (Float32Conv2d, Float32Linear))


class Muon(Optimizer):
    """Steps of kernels (outputs, …), each seen as a matrix (outputs, all else), along their orthogonal momentum."""

    def __init__(self, kernels: list[nn.Parameter], lr: float = 1e-3) -> None:
        super().__init__(kernels, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of all kernels that have a gradient."""
        for group in self.param_groups:
            for kernels in _by_shape(group["params"]):
                directions = orthogonal(torch.stack([self._direction(own).flatten(1) for own in kernels]))
                size = STEP_SIZE * max(directions.shape[1:]) ** 0.5
                for kernel, direction in zip(kernels, directions, strict=True):
                    kernel.add_(direction.view(kernel.shape), alpha=-group["lr"] * size)

    def _direction(self, kernel: nn.Parameter) -> Tensor:
        """Nesterov's momentum: the gradient, most of it replaced by the mean of those before."""
        state = self.state[kernel]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(kernel)
        state["momentum"].lerp_(kernel.grad, 1 - MOMENTUM)
        return kernel.grad.lerp(state["momentum"], MOMENTUM)


def _by_shape(kernels: list[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Kernels with a gradient, those of the same shape together."""
    groups: dict[tuple[int, int], list[nn.Parameter]] = {}
    for kernel in kernels:
        if kernel.grad is not None:
            groups.setdefault((len(kernel), kernel[0].numel()), []).append(kernel)
    return list(groups.values())


def orthogonal(matrices: Tensor) -> Tensor:
    """Matrices (n, a, b) with the same singular vectors and singular values near 1; a zero matrix stays zero.

    The iteration X -> (p0 + p1 G + p2 G²) X with G = X Xᵀ runs on G, of the smaller side, alone, and its product meets
    X once at the end: half the arithmetic of the usual form.
    """
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonal(matrices.mT).mT
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    with _full_float32():
        gram, product = x @ x.mT, None
        for step in range(ITERATIONS):
            factor = torch.baddbmm(gram, gram, gram, beta=COEFFICIENTS[1], alpha=COEFFICIENTS[2])
            factor.diagonal(dim1=1, dim2=2).add_(COEFFICIENTS[0])
            product = factor if product is None else factor @ product
            if step < ITERATIONS - 1:
                gram = factor @ gram @ factor
        return product @ x


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """No TF32: its rounding would make eigenvalues of G negative, and those grow without bound."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
