"""Files in and out: outputs appear whole or not at all; and what is read is whole or refused."""

import contextlib
import glob
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from lesionpipe.core.errors import UserError

CHUNK = 1 << 20


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and moved into place, on failure removed.

    What a killed run left behind is removed first; what another living process is writing stays. An error of the
    operating system that names no file (a full disk) gets the name of this one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = path.with_name(f"{_prefix(path)}{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Like `atomic_path` for a whole folder: an existing folder, file or link at `path` is replaced only on success.

    Of a link, the folder that it leads to stays as it is.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    temporary = Path(tempfile.mkdtemp(prefix=f"{_prefix(path)}{os.getpid()}.", suffix=".partial", dir=path.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(path: str | Path) -> None:
    """Remove the temporary files and folders of `path` that processes of this computer left which have ended."""
    path = Path(path)
    prefix = _prefix(path)
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*.partial"):
        process = leftover.name.removeprefix(prefix).split(".")[0]
        if process.isdecimal() and has_ended(int(process)):
            if leftover.is_dir():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)


def _prefix(path: Path) -> str:
    """How the names of the temporary files of `path` begin: a process number says something on one computer only."""
    return f".{path.name}.{socket.gethostname()}."


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
    """Read JSON.

    Raises:
        UserError: the file is missing or isn't whole JSON; the line and column are named.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: line {error.lineno}, column {error.colno}: not valid JSON ({error.msg})") from None
    except (RecursionError, ValueError):  # nested too deeply, or a number of thousands of digits
        raise UserError(f"{path}: not usable JSON: nested too deeply, or a number too long") from None
