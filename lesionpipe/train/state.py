"""The state of an interrupted training: one file per run, in a scratch folder outside DVC, written after each epoch.

The folder's name is a fingerprint of all that shapes the result: parameters, input files, the code and the library
versions. A run that starts with the same fingerprint goes on where the file ends; anything else starts anew. A finished
run removes its state.
"""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import checksum
from lesionpipe.core.tensor_file import Unreadable, load_tensors, save_tensors

VARIABLE = "LESIONPIPE_SCRATCH"
SMALL = 64 << 20  # bytes up to which a file is read whole for the fingerprint
PROBES, PROBE = 256, 16 << 10  # of a larger file: so many pieces, of so many bytes


def scratch_folder(fingerprint: str) -> Path:
    """Where the state of a run lies: scratch/train/ in the working folder, or below $LESIONPIPE_SCRATCH."""
    return Path(os.environ.get(VARIABLE) or "scratch") / "train" / fingerprint


def fingerprint(settings: dict, inputs: Iterable[Path]) -> str:
    """32 hex digits of settings, input files, the package's loaded code, and the versions of torch and NumPy.

    Args:
        settings: anything that JSON can hold.
        inputs: files; large ones are known by their size and evenly spread pieces.

    Raises:
        UserError: an input is missing.
    """
    try:
        files = {str(path): file_digest(path) for path in inputs}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; run `dvc repro train`, which makes what is missing") from None
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    text = json.dumps([settings, files, loaded_code(), versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def loaded_code() -> dict[str, str]:
    """MD5 of each module of this package that the running program has loaded."""
    modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "lesionpipe"}
    return {name: checksum(module.__file__) for name, module in sorted(modules.items()) if module.__file__}


def file_digest(path: Path) -> str:
    """MD5 of a file; of a large one (shards) its size and evenly spread pieces, since reading 50 GB takes minutes."""
    size = path.stat().st_size
    if size <= SMALL:
        return checksum(path)
    digest = hashlib.md5(str(size).encode(), usedforsecurity=False)
    with path.open("rb") as handle:
        for start in np.linspace(0, size - PROBE, PROBES).astype(int):
            handle.seek(start)
            digest.update(handle.read(PROBE))
    return digest.hexdigest()


def save_state(folder: Path, state: dict) -> None:
    """Write the state; a kill at any moment leaves the one before."""
    save_tensors(folder / "state.pt", state)


def load_state(folder: Path) -> dict | None:
    """The state left by an interrupted run, on the CPU, or None."""
    path = folder / "state.pt"
    if not path.is_file():
        return None
    try:
        return load_tensors(path)
    except Unreadable as reason:
        raise UserError(f"{path}: unreadable ({reason}); delete it to start anew") from None


def clear_state(folder: Path) -> None:
    """Forget the run."""
    shutil.rmtree(folder, ignore_errors=True)
