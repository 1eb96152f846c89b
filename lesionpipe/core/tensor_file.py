"""Files of tensors: written whole or not at all, read without running foreign code."""

import io
import pickle
from pathlib import Path
from typing import Any

import torch

from lesionpipe.core.files import atomic_path


class Unreadable(Exception):
    """A file that torch can't read, with the reason in one line."""


def save_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values atomically; the same content laid out alike gives the same bytes."""
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
    except pickle.UnpicklingError:  # whose text is torch's advice to read it all the same
        raise Unreadable("damaged, or more than tensors and plain values") from None
    except Exception as error:  # of damaged bytes any may come
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise Unreadable(": ".join([type(error).__name__, *lines[:1]])) from None
