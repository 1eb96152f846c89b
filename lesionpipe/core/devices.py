"""Where training and detection run: device, processes, loader processes; torch.compile; memory on a CPU."""

import contextlib
import ctypes
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from lesionpipe.core.errors import UserError
from lesionpipe.core.parallel import cores

MOST_WORKERS = 16
# of glibc's mallopt: how much free memory at the top of the heap is given back, how many blocks lie outside the heap
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST_FREE_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class Hardware:
    """`device` is cpu, cuda, mps or xpu; `devices` processes on each of `nodes`; `workers` loader processes of each."""

    device: str
    devices: int
    nodes: int
    workers: int

    @property
    def processes(self) -> int:
        """All that share a batch."""
        return self.devices * self.nodes


def choose_hardware(device: str, devices: int, nodes: int, workers: int) -> Hardware:
    """What the section `runtime` means here: `auto` becomes a device, 0 workers a number.

    A UserError where there are fewer GPUs than asked for, or a launcher started another number of processes.
    """
    _check_launcher(devices, nodes)
    there = accelerators()
    chosen = next(iter(there), "cpu") if device == "auto" else device
    if chosen != "cpu" and there.get(chosen, 0) < devices:
        raise UserError(
            f"params.yaml: runtime.devices = {devices}: there are {there.get(chosen, 0)} usable GPUs here ({chosen})"
        )
    # on a CPU the loader takes cores away from the network, which needs them more
    workers = workers or (1 if chosen == "cpu" else max(cores() // devices - 1, 1))
    return Hardware(chosen, devices, nodes, min(workers, MOST_WORKERS))


def accelerators() -> dict[str, int]:
    """Usable GPUs by kind, `auto`'s choice first, and how many train together: of the untested `xpu` and `mps` one."""
    found = {
        "cuda": torch.cuda.device_count() if torch.cuda.is_available() else 0,
        "xpu": int(torch.xpu.is_available()),
        "mps": int(torch.backends.mps.is_available()),
    }
    return {device: count for device, count in found.items() if count}


def _check_launcher(devices: int, nodes: int) -> None:
    """Refuse processes that would each train for themselves: WORLD_SIZE, a launcher's count, must be ours."""
    started, processes = os.environ.get("WORLD_SIZE", ""), devices * nodes
    # a scheduler's one process, which starts the others; torchrun and Lightning set LOCAL_RANK as well
    alone = started == "1" and "LOCAL_RANK" not in os.environ
    if started.isdecimal() and int(started) != processes and not alone:
        raise UserError(
            f"params.yaml: runtime.devices = {devices}, runtime.nodes = {nodes}: that makes {processes} processes, but "
            f"{started} were started (WORLD_SIZE); set runtime.devices to the processes per node and runtime.nodes to "
            "the nodes, or run the stage without a launcher and without WORLD_SIZE"
        )


def compile_network(network: nn.Module, device: str, asked_by: str) -> None:
    """Have torch compile a network at its first use, for the parameter `asked_by`; a UserError without a compiler."""
    names = compilers(device)
    if not any(map(shutil.which, names)):
        variable, language = ("CXX", "C++") if device == "cpu" else ("CC", "C")
        raise UserError(
            f"params.yaml: {asked_by} = true: torch needs a {language} compiler for it, and there is no "
            f"{' or '.join(names)}; install one, name yours in the variable {variable}, or set {asked_by} to false"
        )
    network.compile()


def compilers(device: str) -> list[str]:
    """Programs that torch would compile with, any of which will do: $CXX or $CC, or the system's usual ones."""
    usual = [{"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")] if device == "cpu" else ["gcc", "clang"]
    return shlex.split(os.environ.get("CXX" if device == "cpu" else "CC", ""))[:1] or usual


def tune_for(device: str) -> None:
    """Make this process fast: on a GPU cuDNN tries its algorithms and float32 may use TF32.

    On a CPU the C library, where it is glibc, keeps freed memory for the next tensors. A step frees and takes a
    gigabyte; by default every large block is a new mapping, and filling its pages with zeros takes a fifth of a
    training step, on virtual machines more.
    """
    if device != "cpu":
        torch.backends.cudnn.benchmark = True  # without effect on other makers' GPUs
        torch.set_float32_matmul_precision("high")
    elif os.name == "posix" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, MOST_FREE_BYTES)


@contextlib.contextmanager
def repeatable(device: str) -> Iterator[None]:
    """On a CPU only deterministic algorithms, without the costly filling of fresh memory; a GPU is left to be fast."""
    before, filling = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(device == "cpu")
    torch.utils.deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = filling
