"""What `auto`, `bf16` and `32` mean on a processor or GPU, and what the user reads about it."""

import os
import subprocess
import sys

import pytest
import torch

from lesionpipe.core import bfloat16, devices
from lesionpipe.core.bfloat16 import bf16_speedup, choose_arithmetic, report_arithmetic
from lesionpipe.core.devices import accelerators, choose_hardware
from lesionpipe.core.errors import UserError


def measured(monkeypatch, speedup: float) -> None:
    monkeypatch.setattr(bfloat16, "bf16_speedup", lambda device, training: speedup)


@pytest.mark.parametrize(("speedup", "precision"), [(0.1, "32"), (1.19, "32"), (1.2, "bf16"), (3.0, "bf16")])
def test_auto_is_bf16_only_where_it_is_clearly_faster(monkeypatch, capsys, speedup, precision):
    measured(monkeypatch, speedup)
    arithmetic = choose_arithmetic("auto", "cpu", training=True)
    assert (arithmetic.precision, arithmetic.bf16) == (precision, precision == "bf16")
    report_arithmetic(arithmetic, "train.precision")
    assert not capsys.readouterr().err


def test_bf16_where_it_is_emulated_is_a_warning_with_the_factor(monkeypatch, capsys):
    measured(monkeypatch, 0.1)
    report_arithmetic(choose_arithmetic("bf16", "cpu", training=True), "train.precision")
    printed = capsys.readouterr()
    assert printed.out == "train.precision: bf16 (bfloat16 runs 0.1 times as fast as float32 here)\n"
    assert printed.err.startswith("warning: train.precision = bf16, but bfloat16 is emulated here: 0.1 times as fast")


def test_32_is_32_without_any_measuring(monkeypatch, capsys):
    monkeypatch.setattr(bfloat16, "bf16_speedup", None)
    report_arithmetic(choose_arithmetic("32", "cpu", training=False), "detect.precision")
    assert capsys.readouterr().out == "detect.precision: 32\n"


def test_a_gpu_answers_for_itself(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    assert choose_arithmetic("auto", "cuda", training=True).bf16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    assert not choose_arithmetic("auto", "cuda", training=True).bf16
    assert not choose_arithmetic("auto", "mps", training=True).bf16  # which can't say


def test_measuring_draws_nothing_and_leaves_the_threads_as_they_were():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert bf16_speedup("cpu", training=True) > 0
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_a_processor_held_to_avx2_computes_in_float32():
    """Its flags still claim what the libraries are told not to use."""
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    program = "from lesionpipe.core.bfloat16 import *; print(choose_arithmetic('auto', 'cpu', True).precision)"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "32\n"


def test_auto_finds_the_gpu_that_torch_has(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)
    assert accelerators() == {} and choose_hardware("auto", 1, 1, 1).device == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_hardware("auto", 1, 1, 1).device == "mps"
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    assert choose_hardware("auto", 1, 1, 1).device == "xpu"
    with pytest.raises(UserError, match=r"runtime\.devices = 2: there are 1 usable GPUs here \(xpu\)"):
        choose_hardware("xpu", 2, 1, 1)
    with pytest.raises(UserError, match=r"runtime\.devices = 1: there are 0 usable GPUs here \(cuda\)"):
        choose_hardware("cuda", 1, 1, 1)
    assert devices.compilers("xpu") == devices.compilers("cuda")
