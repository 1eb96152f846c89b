"""The optimisers: which parameters each moves, and Muon's steps by hand."""

import math

import pytest
import torch
from torch import nn

from lesionpipe.detectors.interface import Float32Conv2d, Float32Linear
from lesionpipe.train.optimizers import COEFFICIENTS, Muon, build_optimizers, orthogonal


def iterated(value: float) -> float:
    """Five steps of the scalar iteration x -> p0 x + p1 x³ + p2 x⁵."""
    for _ in range(5):
        value = COEFFICIENTS[0] * value + COEFFICIENTS[1] * value**3 + COEFFICIENTS[2] * value**5
    return value


def test_orthogonal_iterates_each_singular_value_and_keeps_the_vectors():
    result = orthogonal(torch.tensor([[[3.0, 0.0], [0.0, 4.0]]]))[0]  # divided by its norm 5: 0.6 and 0.8
    assert result.tolist() == [[pytest.approx(iterated(0.6), abs=1e-5), 0], [0, pytest.approx(iterated(0.8), abs=1e-5)]]


def test_orthogonal_brings_singular_values_near_1():
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(matrices))
    assert 0.65 < values.min() < values.max() < 1.25


def test_tall_matrices_are_turned_and_a_zero_one_stays_zero():
    matrix = torch.randn(1, 7, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(orthogonal(matrix), orthogonal(matrix.mT).mT)
    assert torch.equal(orthogonal(torch.zeros(1, 3, 4)), torch.zeros(1, 3, 4))


def test_orthogonal_leaves_the_setting_of_tf32_as_it_was(monkeypatch):
    seen = []
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: "high")
    monkeypatch.setattr(torch, "set_float32_matmul_precision", seen.append)
    orthogonal(torch.ones(1, 2, 2))
    assert seen == ["highest", "high"]


def test_first_step_of_muon_by_hand():
    """Gradient diag(3, 4): momentum is 0.05 of it, the direction a positive multiple, so as in the first test."""
    kernel = nn.Parameter(torch.zeros(2, 2, 1, 1))
    kernel.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]]).view(2, 2, 1, 1)
    Muon([kernel], lr=0.1).step()
    size = 0.1 * 0.4 * math.sqrt(2)
    wanted = [[-size * iterated(0.6), 0], [0, -size * iterated(0.8)]]
    torch.testing.assert_close(kernel.detach().view(2, 2), torch.tensor(wanted), atol=1e-5, rtol=0)


def test_second_step_follows_nesterovs_momentum():
    """Gradients 1 and -1 of a 1 x 1 kernel: momenta 0.05 and -0.0025; 0.05 · -1 + 0.95 · -0.0025 < 0, so it returns."""
    kernel = nn.Parameter(torch.zeros(1, 1))
    optimizer = Muon([kernel], lr=1.0)
    for gradient, sign in ((1.0, -1), (-1.0, 0)):
        kernel.grad = torch.full((1, 1), gradient)
        optimizer.step()
        assert float(kernel) == pytest.approx(sign * 0.4 * iterated(1), abs=1e-5)


def test_a_kernel_moves_alike_alone_in_company_and_in_either_memory_order():
    generator = torch.Generator().manual_seed(0)
    gradients = [torch.randn(4, 3, 3, 3, generator=generator) for _ in range(2)]
    together = [nn.Parameter(torch.zeros(4, 3, 3, 3)) for _ in gradients]
    for kernel, gradient in zip(together, gradients, strict=True):
        kernel.grad = gradient
    Muon(together).step()
    alone = nn.Parameter(torch.zeros(4, 3, 3, 3).contiguous(memory_format=torch.channels_last))
    alone.grad = gradients[1].contiguous(memory_format=torch.channels_last)
    Muon([alone]).step()
    torch.testing.assert_close(alone.detach(), together[1].detach())


def test_hidden_kernels_go_to_muon_all_else_to_adam():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), Float32Conv2d(8, 5, 1), nn.Conv2d(5, 1, 1), Float32Linear(4, 2)
    )
    muon, adam = build_optimizers("muon", model)
    names = {id(own): name for name, own in model.named_parameters()}
    moved = [[names[id(own)] for group in each.param_groups for own in group["params"]] for each in (muon, adam)]
    assert moved[0] == ["0.weight"]
    assert sorted(moved[0] + moved[1]) == sorted(names.values())


def test_adam_alone_holds_all():
    model = nn.Conv2d(3, 8, 3)
    (adam,) = build_optimizers("adam", model)
    assert isinstance(adam, torch.optim.Adam) and len(adam.param_groups[0]["params"]) == 2
