"""Files of tensors: written whole or not at all, read without running foreign code.

Two formats: safetensors for models (named tensors, and text in the header), torch's own for the state of a training,
which nests tensors in lists and dicts.
"""

import contextlib
import io
import json
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from lesionpipe.core.files import atomic_path

LENGTH_BYTES = 8  # a safetensors file starts with the length of its JSON header, itself a multiple of 8 bytes


class Unreadable(Exception):
    """A file that is damaged, cut, of another format or holds more than tensors and plain values; why, in one line."""


def save_safetensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write named tensors atomically, with text in the header; the same content gives the same bytes.

    Memory format and device of the tensors leave no trace; tensors that share memory are written one by one.
    """
    plain = {name: value.detach().cpu().clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    content = memoryview(safetensors_bytes(plain, dict(header)))
    end = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
    # safetensors writes the header's entries in random order
    ordered = json.dumps(json.loads(bytes(content[LENGTH_BYTES:end])), sort_keys=True, separators=(",", ":")).encode()
    ordered += b" " * (-len(ordered) % 8)
    with atomic_path(path) as temporary, temporary.open("wb") as handle:
        for piece in (len(ordered).to_bytes(LENGTH_BYTES, "little"), ordered, content[end:]):
            handle.write(piece)


def read_safetensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a safetensors file, on the CPU, and the text in its header; FileNotFoundError or Unreadable."""
    with _damage_refused(), safe_open(path, framework="pt", device="cpu") as handle:
        return {name: handle.get_tensor(name) for name in list(handle.keys())}, handle.metadata() or {}


def save_tensors(path: str | Path, content: dict[str, Any]) -> None:
    """Write tensors and plain values in torch's format, atomically; the same content laid out alike, the same bytes."""
    # into memory first: given a path, torch writes its name into the bytes, and a full disk is a RuntimeError
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_path(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


def load_tensors(path: str | Path) -> Any:
    """What a file in torch's format holds, its tensors on the CPU; FileNotFoundError or Unreadable."""
    with _damage_refused():
        return torch.load(path, map_location="cpu", weights_only=True)


@contextlib.contextmanager
def _damage_refused() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError:  # whose text is torch's advice to read it all the same
        raise Unreadable("damaged, or more than tensors and plain values") from None
    except Exception as error:  # of damaged bytes any may come
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise Unreadable(": ".join([type(error).__name__, *lines[:1]])) from None
