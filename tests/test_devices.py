"""Where a training runs: what the parameters and a launcher say; memory on a CPU; compilers."""

import ctypes
import re
import subprocess
import sys

import pytest
import torch

from lesionpipe.core import devices
from lesionpipe.core.devices import Hardware, choose_hardware, compile_network, compilers
from lesionpipe.core.errors import UserError

FAULTS = """
import resource, torch
from lesionpipe.core.devices import tune_for
tune_for("cpu")
def faults(times):  # of 64 MB, freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(5)  # small blocks may lie between the first large ones
print(faults(20))
"""


def hardware_of(number: int = 1, nodes: int = 1, device: str = "cpu") -> Hardware:
    """With `number` devices on each node and workers by default."""
    return choose_hardware(device, number, nodes, workers=0)


def launched(monkeypatch, **variables: str) -> None:
    """The environment of a process that a launcher started."""
    for name in ("WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_loader_processes_on_a_cpu_leave_the_cores_to_the_network():
    assert hardware_of().workers == 1


def test_loader_processes_of_a_gpu_share_the_cores_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr(devices, "cores", lambda: 12)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert hardware_of(2, device="cuda").workers == 5


@pytest.mark.parametrize(
    ("asked", "variables"),
    [
        ((1, 1), {}),
        ((2, 1), {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}),
        ((2, 3), {"WORLD_SIZE": "6", "LOCAL_RANK": "0"}),
        ((2, 1), {"WORLD_SIZE": "1"}),  # a scheduler's one process, which starts the other
        ((2, 1), {"WORLD_SIZE": ""}),
    ],
)
def test_as_many_processes_as_a_launcher_started(monkeypatch, asked, variables):
    launched(monkeypatch, **variables)
    assert hardware_of(*asked).processes == asked[0] * asked[1]


@pytest.mark.parametrize(
    ("asked", "variables"),
    [
        ((1, 1), {"WORLD_SIZE": "2", "LOCAL_RANK": "0"}),
        ((1, 1), {"WORLD_SIZE": "4"}),
        ((2, 2), {"WORLD_SIZE": "2", "LOCAL_RANK": "1"}),
        ((2, 1), {"WORLD_SIZE": "1", "LOCAL_RANK": "0"}),
    ],
)
def test_another_number_of_processes_than_a_launcher_started_is_refused(monkeypatch, asked, variables):
    launched(monkeypatch, **variables)
    words = rf"runtime\.devices = {asked[0]}, runtime\.nodes = {asked[1]}: .* {variables['WORLD_SIZE']} were started"
    with pytest.raises(UserError, match=words):
        hardware_of(*asked)


@pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)
def test_memory_freed_on_a_cpu_is_taken_again_without_new_pages():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 10 * 16384  # without the setting all pages of twenty times 64 MB; some may lie elsewhere


@pytest.mark.parametrize(("device", "variable", "language"), [("cpu", "CXX", "C++"), ("cuda", "CC", "C")])
def test_compiling_without_a_compiler_is_refused_before_any_work(monkeypatch, device, variable, language):
    words = f"detect.compile = true: torch needs a {language} compiler for it, and there is no nowhere;"
    monkeypatch.setenv(variable, "nowhere -O2")
    with pytest.raises(UserError, match=re.escape(words)):
        compile_network(torch.nn.ReLU(), device, "detect.compile")


def test_a_compiler_may_be_named_with_its_launcher(monkeypatch):
    monkeypatch.setenv("CXX", f"{sys.executable} g++")
    assert compilers("cpu") == [sys.executable]
    compile_network(torch.nn.ReLU(), "cpu", "train.compile")
