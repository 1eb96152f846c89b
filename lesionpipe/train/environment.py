"""What a model was trained with: on another processor or with another version, the same code, data and seed give other
last digits in each step, and in the end another model."""

import platform
import re
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
import torchvision

from lesionpipe.core.devices import Hardware


def environment(hardware: Hardware, precision: str) -> dict[str, str | int]:
    """metrics/environment.json: versions, processor or GPU, precision used, processes and threads of each."""
    return {
        "lesionpipe": _own_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "device": device_name(hardware.device),
        "precision": precision,
        "processes": hardware.processes,
        "threads": torch.get_num_threads(),
    }


def device_name(device: str) -> str:
    """Of a GPU its name where torch knows it; else the processor's, and `mps` where that one's GPU trains."""
    if device in ("cuda", "xpu"):
        return getattr(torch, device).get_device_name()
    return processor_name() if device == "cpu" else f"{processor_name()}, {device}"


def processor_name() -> str:
    """The processor's name and its instructions that torch uses, such as `AMD EPYC 7R13 Processor, AVX2`."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:  # not Linux
        found = None
    name = found.group(1).strip() if found else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def _own_version() -> str:
    """Of the package in this checkout; the installed one may be another."""
    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        found = re.search(r'^version = "(.+)"$', project.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return found.group(1)
    return metadata.version("lesionpipe")
