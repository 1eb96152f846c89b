"""Files in and out: outputs appear whole or not at all; what is read is whole or refused; the scratch folder."""

import contextlib
import glob
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lesionpipe.core.errors import UserError

CHUNK = 1 << 20
SCRATCH_VARIABLE = "LESIONPIPE_SCRATCH"


def scratch_folder() -> Path:
    """What DVC must not see, such as half-fetched archives: `scratch`, or what LESIONPIPE_SCRATCH names."""
    return Path(os.environ.get(SCRATCH_VARIABLE) or "scratch")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and moved into place, on failure removed.

    What a killed run left behind is removed first; what another living process is writing stays. An error of the
    operating system that names no file (a full disk) gets the name of this one.
    """
    with _temporary(Path(path)) as temporary:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Like `atomic_path` for a whole folder; what was at `path`, of a link the link alone, is replaced on success."""
    with _temporary(Path(path)) as temporary:
        temporary.mkdir()
        yield temporary
        remove_path(Path(path))
        temporary.replace(path)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # a process number says something on one computer only
    prefix = f".{path.name}.{socket.gethostname()}."
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        process = leftover.name.removeprefix(prefix).split(".")[0]
        if process.isdecimal() and has_ended(int(process)):
            with contextlib.suppress(OSError):  # another process may remove it at the same time
                remove_path(leftover)
    temporary = path.with_name(f"{prefix}{os.getpid()}.partial")
    remove_path(temporary)  # of an ended process that had our number
    try:
        yield temporary
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        with contextlib.suppress(OSError):  # what failed before is what is told; the next run removes the rest
            remove_path(temporary)


def remove_path(path: Path) -> None:
    """Remove a file or link, or a folder with all that it holds, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def has_ended(process: int) -> bool:
    """Whether no process of this computer has this number."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's
    return False


def flush_and_forget(handle: BinaryIO) -> None:
    """Send what was written so far to the disk and, where the system allows it, out of the page cache."""
    handle.flush()
    getattr(os, "fdatasync", os.fsync)(handle.fileno())
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # some file systems don't take this advice
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically, with a final newline."""
    with atomic_path(path) as temporary:
        temporary.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8", newline="\n")


def read_json(path: str | Path) -> object:
    """Read JSON; a UserError with line and column where the file is missing or isn't whole."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        reason = "no such file"
    except UnicodeDecodeError as error:
        reason = f"not UTF-8 text at byte {error.start}"
    except json.JSONDecodeError as error:
        reason = f"line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})"
    except (RecursionError, ValueError):
        reason = "not usable JSON: nested too deeply, or a number too long"
    raise UserError(f"{path}: {reason}")
