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


def environment(hardware: Hardware) -> dict[str, str | int]:
    """metrics/environment.json: versions, processor or GPU, processes and threads of each."""
    return {
        "lesionpipe": _own_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if hardware.device == "cuda" else processor_name(),
        "processes": hardware.processes,
        "threads": torch.get_num_threads(),
    }


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
