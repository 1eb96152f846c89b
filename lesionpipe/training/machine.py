"""Where training and detection run: device, processes, loader processes."""

import os
from dataclasses import dataclass

import torch

from lesionpipe.errors import UserError
from lesionpipe.params import Runtime

MOST_WORKERS = 16


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
        UserError: a GPU is asked for and there is none, or fewer than asked for.
    """
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = ("cuda" if there else "cpu") if runtime.device == "auto" else runtime.device
    if device == "cuda" and there < runtime.devices:
        raise UserError(f"params.yaml: runtime.devices = {runtime.devices}: this machine has {there} usable GPUs")
    cores = len(os.sched_getaffinity(0)) // runtime.devices
    # on a CPU the loader takes cores away from the network, which needs them more
    workers = runtime.workers or (max(cores - 1, 1) if device == "cuda" else 1)
    return Machine(device, runtime.devices, runtime.nodes, min(workers, MOST_WORKERS))
