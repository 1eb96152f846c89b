"""The processes that train together: Fabric starts them, one lock keeps other runs away, none outlives the first.

Fabric runs the command line of this process once more for each further one: `python -m stages.train` in the same
folder, so that all of them run the code of one checkout. Under `torchrun` the processes are there already.
"""

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed
from lightning_fabric import Fabric
from lightning_fabric.accelerators import CPUAccelerator
from lightning_fabric.strategies import SingleDeviceStrategy
from torch import Tensor, nn

from lesionpipe.core.devices import Hardware
from lesionpipe.core.errors import UserError
from lesionpipe.detectors.interface import single_process
from lesionpipe.train.state import state_lock


@contextlib.contextmanager
def training_processes(hardware: Hardware, state_folder: Path) -> Iterator[Fabric]:
    """Fabric with all its processes running; the first of them holds the lock of the run's state.

    Raises:
        UserError: another process has ended; or processes of a launcher such as torchrun find the lock held, where
            none of them can wait for it.
    """
    _quieten_lightning()
    fabric = _fabric(hardware)
    environment = getattr(fabric.strategy, "cluster_environment", None)
    may_wait = environment is None or not environment.creates_processes_externally
    with state_lock(state_folder, may_wait) if fabric.is_global_zero else contextlib.nullcontext():
        try:
            fabric.launch()
            yield fabric
        except BaseException as error:
            if fabric.is_global_zero and hardware.device != "cpu":
                # over NCCL the others don't notice by themselves that this process ends
                for process in getattr(fabric.strategy.launcher, "procs", []):
                    process.kill()
            _leave_report_to_cause(fabric, error)
            raise


class IntelAccelerator(CPUAccelerator):
    """The first of Intel's GPUs, `xpu` in torch, which Fabric doesn't know. Untested on such a GPU."""

    def setup_device(self, device: torch.device) -> None:
        torch.xpu.set_device(device)


def _fabric(hardware: Hardware) -> Fabric:
    if hardware.device == "xpu":
        if hardware.processes > 1:
            raise UserError(f"params.yaml: runtime.device = xpu trains in one process, not in {hardware.processes}")
        return Fabric(accelerator=IntelAccelerator(), strategy=SingleDeviceStrategy(torch.device("xpu", 0)), devices=1)
    strategy = "ddp" if hardware.processes > 1 else "auto"
    return Fabric(accelerator=hardware.device, strategy=strategy, devices=hardware.devices, num_nodes=hardware.nodes)


def _leave_report_to_cause(fabric: Fabric, error: BaseException) -> None:
    """Of an error that reaches all processes, one of them reports."""
    lost = isinstance(error, torch.distributed.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
    if lost and fabric.is_global_zero:
        raise UserError("training: another process has ended; see above, or it was killed for want of memory") from None
    if lost:
        raise SystemExit(1) from None
    if isinstance(error, KeyboardInterrupt) and not fabric.is_global_zero:
        raise SystemExit(130) from None


def leave_report_to_first(fabric: Fabric) -> None:
    """End this process quietly, unless it is the first, which reports the error that all know."""
    if not fabric.is_global_zero:
        fabric.barrier()  # fails when the first has ended
        raise SystemExit(1)


def share_counts(counts: Tensor) -> Tensor:
    """The `Share` of processes that have a batch together: the sum of their counts, at least 1, over their number."""
    if not torch.distributed.is_initialized():
        return single_process(counts)
    torch.distributed.all_reduce(counts)
    return counts.clamp(min=1) / torch.distributed.get_world_size()


def gather_lists(own: list) -> list:
    """The items of all processes."""
    if not torch.distributed.is_initialized():
        return own
    lists = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(lists, own)
    return [item for items in lists for item in items]


def copy_buffers_of_first(network: nn.Module) -> None:
    """Give all processes the running statistics of the first, as DistributedDataParallel does before each step."""
    if torch.distributed.is_initialized():
        for buffer in network.buffers():
            torch.distributed.broadcast(buffer, 0)


def _quieten_lightning() -> None:
    """Keep Lightning's banners and hints about loaders out of the log; errors still come through."""
    for name in ("lightning_fabric", "lightning_fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
