"""What a training leaves beside its weights: a row per epoch, apart from it the times, and what it ran on.

metrics/train.csv has the columns epoch (from 1), loss_total and loss_NAME (means over the steps; the parts are the
detector's `loss_names`, unweighted), val_map (average precision at IoU 0.5 on the validation split) and learning_rate
(of the epoch's last step); data/times/train.csv has epoch, images_per_s (of training alone) and seconds (of the epoch
with its validation).
"""

import platform
import re
import tomllib
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchvision
from torch import Tensor

from lesionpipe.core.devices import Hardware
from lesionpipe.core.formats import write_csv
from lesionpipe.train.schedule import best_epoch

HISTORY_FILE = Path("metrics/train.csv")
TIMES_FILE = Path("data/times/train.csv")
PROJECT = Path(__file__).parents[2] / "pyproject.toml"
CPUINFO = Path("/proc/cpuinfo")  # of Linux


@dataclass
class History:
    """The finished epochs, and the weights of the best (the detector's state dict, on the CPU)."""

    rows: list[dict[str, float]] = field(default_factory=list)
    times: list[dict[str, float]] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def scores(self) -> list[float]:
        """Validation mAP of each finished epoch."""
        return [row["val_map"] for row in self.rows]

    def add(self, losses: dict[str, float], val_map: float, learning_rate: float, weights: dict[str, Tensor]) -> None:
        """Add an epoch; its weights are copied if they are better than all before. Its times follow in `times`."""
        if val_map > max(self.scores, default=-1.0):
            self.best = {name: value.detach().cpu().clone() for name, value in weights.items()}
        columns = {f"loss_{name}": value for name, value in losses.items()}
        self.rows.append({"epoch": len(self.rows) + 1, **columns, "val_map": val_map, "learning_rate": learning_rate})

    def table(self) -> pd.DataFrame:
        """metrics/train.csv."""
        return pd.DataFrame(self.rows)

    def write(self) -> None:
        """Write both tables."""
        write_csv(HISTORY_FILE, self.table())
        write_csv(TIMES_FILE, pd.DataFrame(self.times))

    def last_line(self, epochs: int) -> str:
        """The last of at most `epochs` epochs in one line."""
        row, times = self.rows[-1], self.times[-1]
        losses = ", ".join(f"{name[5:]} {value:.4f}" for name, value in row.items() if name.startswith("loss_"))
        speed = f"{times['images_per_s']:.1f} images/s"
        return f"epoch {row['epoch']}/{epochs}: {losses}; val mAP {row['val_map']:.4f}; {speed}"

    def summary(self) -> dict[str, float]:
        """metrics/train.json: the best epoch (from 1), its validation mAP, and the epochs trained."""
        best = best_epoch(self.scores)
        return {"best_epoch": best + 1, "val_map": round(self.scores[best], 6), "epochs": len(self.rows)}


def environment(hardware: Hardware, precision: str) -> dict[str, str | int]:
    """metrics/environment.json: versions, processor or GPU, precision used, processes and threads of each.

    On another processor or with another version, the same code, data and seed give other last digits in each step, and
    in the end another model.
    """
    # of the package in this checkout; the installed one may be another
    checkout = tomllib.loads(PROJECT.read_text(encoding="utf-8")) if PROJECT.is_file() else None
    return {
        "lesionpipe": checkout["project"]["version"] if checkout else metadata.version("lesionpipe"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "device": _device_name(hardware.device),
        "precision": precision,
        "processes": hardware.processes,
        "threads": torch.get_num_threads(),
    }


def _device_name(device: str) -> str:
    """Of a GPU its name where torch knows it, else such as `AMD EPYC 7R13 Processor, AVX2`, with `mps` behind it."""
    if device in ("cuda", "xpu"):
        return getattr(torch, device).get_device_name()
    found = CPUINFO.is_file() and re.search(r"(?m)^model name\s*:\s*(.+)$", CPUINFO.read_text(errors="replace"))
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return ", ".join([name, torch.backends.cpu.get_cpu_capability(), *([] if device == "cpu" else [device])])
