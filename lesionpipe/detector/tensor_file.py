"""Files of tensors: written whole or not at all, read without running foreign code."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from lesionpipe.files import atomic_path


class Unreadable(Exception):
    """A file that torch can't read, with the reason in one line."""


def save_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values atomically; equal content gives equal bytes."""
    # into memory first: given a path, torch writes its name into the bytes, and a full disk is a RuntimeError
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_tensors(path: str | Path) -> Any:
    """What a file holds, its tensors on the CPU.

    Raises:
        FileNotFoundError: there is none.
        Unreadable: it is damaged, or holds more than tensors and plain values.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise Unreadable(str(error).splitlines()[0] if str(error) else type(error).__name__) from None
