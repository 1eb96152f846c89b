"""Where training and detection run: device, processes, loader processes."""

import ctypes
import os
import shlex
import shutil
import sys
from dataclasses import dataclass

import torch
from torch import nn

from lesionpipe.core.errors import UserError
from lesionpipe.core.parallel import cores
from lesionpipe.params import Runtime

MOST_WORKERS = 16
# of glibc's mallopt: how much free memory at the top of the heap is given back, how many blocks lie outside the heap
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
MOST_FREE_BYTES = (1 << 31) - 1


@dataclass(frozen=True)
class Machine:
    """`device` is cpu or cuda, `devices` are the processes per node, `workers` those of each that load samples."""

    device: str
    devices: int
    nodes: int
    workers: int

    @property
    def processes(self) -> int:
        return self.devices * self.nodes


def machine_of(runtime: Runtime) -> Machine:
    """What `params.runtime` means here.

    Raises:
        UserError: a GPU is asked for and there is none, or fewer than asked for; or a launcher started another number
            of processes.
    """
    _check_launcher(runtime)
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = ("cuda" if there else "cpu") if runtime.device == "auto" else runtime.device
    if device == "cuda" and there < runtime.devices:
        raise UserError(f"params.yaml: runtime.devices = {runtime.devices}: this machine has {there} usable GPUs")
    # on a CPU the loader takes cores away from the network, which needs them more
    workers = runtime.workers or (max(cores() // runtime.devices - 1, 1) if device == "cuda" else 1)
    return Machine(device, runtime.devices, runtime.nodes, min(workers, MOST_WORKERS))


def _check_launcher(runtime: Runtime) -> None:
    """Refuse processes that would each train for themselves: WORLD_SIZE, a launcher's count, must be ours.

    A scheduler may set it to 1 for the one process it starts, which then starts the others; torchrun and Lightning set
    LOCAL_RANK as well.
    """
    started, processes = os.environ.get("WORLD_SIZE", ""), runtime.devices * runtime.nodes
    if not started.isdecimal() or int(started) == processes or (int(started) == 1 and "LOCAL_RANK" not in os.environ):
        return
    raise UserError(
        f"params.yaml: runtime.devices = {runtime.devices}, runtime.nodes = {runtime.nodes}: that makes {processes} "
        f"processes, but {started} were started (WORLD_SIZE); set runtime.devices to the processes per node and "
        "runtime.nodes to the nodes, or run the stage without a launcher and without WORLD_SIZE"
    )


def compile_network(network: nn.Module, device: str, asked_by: str) -> None:
    """Have torch compile a network at its first call, for the parameter `asked_by`.

    Raises:
        UserError: torch needs a C++ compiler for a CPU, a C compiler for a GPU, and there is none.
    """
    names = compilers(device)
    if not any(map(shutil.which, names)):
        variable, language = ("CC", "C") if device == "cuda" else ("CXX", "C++")
        raise UserError(
            f"params.yaml: {asked_by} = true: torch needs a {language} compiler for it, and there is no "
            f"{' or '.join(names)}; install one, name yours in the variable {variable}, or set {asked_by} to false"
        )
    network.compile()


def compilers(device: str) -> list[str]:
    """Programs that torch would compile with, any of which will do: $CXX or $CC, or the system's usual ones."""
    named = shlex.split(os.environ.get("CC" if device == "cuda" else "CXX", ""))
    if named:
        return named[:1]
    if device == "cuda":
        return ["gcc", "clang"]
    return [{"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")]


def tune_for(device: str) -> None:
    """Make this process fast: on a GPU cuDNN tries its algorithms and float32 may use TF32, a CPU keeps its memory."""
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    else:
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Let the C library reuse the tensors' memory instead of giving it back to the system, where that is glibc.

    Each step on a CPU frees and takes a gigabyte. By default every large block is a new mapping, and filling its pages
    with zeros takes a fifth of a training step, on virtual machines more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, MOST_FREE_BYTES)
