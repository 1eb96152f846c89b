"""What a model was trained with: on another processor or with another version, the same code, data and seed give other
last digits in each step, and in the end another model."""

import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torchvision

from lesionpipe.core.devices import Hardware

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
CPUINFO = Path("/proc/cpuinfo")  # of Linux


def environment(hardware: Hardware, precision: str) -> dict[str, str | int]:
    """metrics/environment.json: versions, processor or GPU, precision used, processes and threads of each."""
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
    """Of a GPU its name where torch knows it; else that of the processor and its instructions that torch uses.

    Such as `AMD EPYC 7R13 Processor, AVX2`; with `mps` behind it where the processor's GPU trains.
    """
    if device in ("cuda", "xpu"):
        return getattr(torch, device).get_device_name()
    found = CPUINFO.is_file() and re.search(r"(?m)^model name\s*:\s*(.+)$", CPUINFO.read_text(errors="replace"))
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return ", ".join([name, torch.backends.cpu.get_cpu_capability(), *([] if device == "cpu" else [device])])
