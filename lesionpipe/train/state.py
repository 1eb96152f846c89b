"""The state of an interrupted training: one file per run, in a scratch folder outside DVC, written after each epoch.

The folder's name is a fingerprint of all that shapes the result. A run that starts with the same fingerprint goes on
where the file ends; anything else starts anew. A finished run removes its state. Only one process at a time trains a
fingerprint; it holds a lock beside the folder. Another one waits, and takes over the finished state, which the first
leaves to those who wait.
"""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
import torchvision
from filelock import FileLock, Timeout

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import has_ended, scratch_folder
from lesionpipe.core.hashing import checksum, remembered_checksum
from lesionpipe.core.tensor_file import Unreadable, load_tensors, save_tensors

# Code that can't change a result: a reworded message must not restart a training of days. `params` only checks values,
# which are in the fingerprint themselves.
NEUTRAL = (
    *(f"lesionpipe.core.{name}" for name in ("errors", "files", "hashing", "parallel", "progress", "stage_files")),
    *("lesionpipe.params", "lesionpipe.train.state"),
)
CONTENT = {"rows": list, "times": list, "best": dict, "detector": dict, "optimizers": list}


def state_folder(fingerprint: str) -> Path:
    """Where the state of a run lies: scratch/train/, see `core.files`."""
    return scratch_folder() / "train" / fingerprint


def fingerprint_of(settings: dict, inputs: Iterable[Path]) -> str:
    """32 hex digits of settings that JSON can hold, every byte of the input files, the code that is loaded, and the
    libraries' versions.

    Raises:
        UserError: an input is missing.
    """
    try:
        files = {str(path): remembered_checksum(path) for path in inputs}
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; run `dvc repro`, which makes what is missing") from None
    versions = {library.__name__: library.__version__ for library in (torch, torchvision, np, cv2)}
    text = json.dumps([settings, files, loaded_code(), versions], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def loaded_code() -> dict[str, str]:
    """MD5 of each module of this package that the running program has loaded, but for `NEUTRAL` ones."""
    return {
        name: checksum(module.__file__)
        for name, module in sorted(sys.modules.items())
        if name.split(".")[0] == "lesionpipe" and not is_neutral(name) and getattr(module, "__file__", None)
    }


def is_neutral(module: str) -> bool:
    """Whether a module is one of `NEUTRAL`, or in one of these packages."""
    return f"{module}.".startswith(tuple(f"{name}." for name in NEUTRAL))


def save_state(folder: Path, state: dict) -> None:
    """Write the state, with the keys of `CONTENT`; a kill at any moment leaves the one before."""
    save_tensors(folder / "state.pt", state)


def load_state(folder: Path) -> dict | None:
    """The state left by an interrupted run, on the CPU, or None.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "state.pt"
    try:
        state = load_tensors(path)
    except FileNotFoundError:
        return None
    except Unreadable as reason:
        raise UserError(f"{path}: unreadable ({reason}); delete it to start anew") from None
    for name, kind in CONTENT.items():
        if not isinstance(state, dict) or not isinstance(state.get(name), kind):
            raise UserError(f"{path}: '{name}' is missing or of the wrong type; delete the file to start anew")
    return state


def clear_state(folder: Path) -> None:
    """Forget the run, once its results are written; where another process waits for them, leave them to it."""
    if not _waiting(folder):
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def state_lock(folder: Path, wait: bool = True) -> Iterator[None]:
    """Hold a run's state for this process alone; a process that holds it is waited for and named in one line.

    Raises:
        UserError: another process holds it, and `wait` is false.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path, holder = folder.with_name(f"{folder.name}.lock"), folder / "holder"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _wait_for(lock, folder, holder, wait)
    try:
        folder.mkdir(exist_ok=True)
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}, in {Path.cwd()}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds a state
            folder.rmdir()
        if not folder.exists() and not _waiting(folder):
            path.unlink(missing_ok=True)
        lock.release()


def _wait_for(lock: FileLock, folder: Path, holder: Path, wait: bool) -> None:
    try:
        other = holder.read_text(encoding="utf-8")
    except OSError:  # it has just begun or just ended
        other = "another process"
    if not wait:
        raise UserError(f"{folder}: {other}, trains the same run; wait until it has ended, or end it")
    mark = folder.with_name(f"{folder.name}.waiting.{socket.gethostname()}.{os.getpid()}")
    try:
        mark.touch()
        print(f"waiting: {other}, trains the same run; this process goes on from its result", flush=True)
        lock.acquire()
    finally:
        mark.unlink(missing_ok=True)


def _waiting(folder: Path) -> bool:
    """Whether a living process waits for the run; of other hosts all count as living."""
    for mark in folder.parent.glob(f"{folder.name}.waiting.*"):
        host, pid = mark.name.removeprefix(f"{folder.name}.waiting.").rsplit(".", 1)
        if host != socket.gethostname() or not has_ended(int(pid)):
            return True
        mark.unlink(missing_ok=True)
    return False
