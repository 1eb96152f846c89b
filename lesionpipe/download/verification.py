"""Whether a file is the published archive: size and MD5, read once.

A note in the scratch folder keeps what was verified, so that 4 GB are read again only when the file has changed (size,
time). A lock makes two processes that verify the same file read it once, one after the other.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import CHUNK, read_json
from lesionpipe.core.formats import write_json
from lesionpipe.core.scratch import scratch_folder
from lesionpipe.download.archives import Archive

OnBytes = Callable[[int], object]  # called with each change of the number of bytes that are done


def verify(path: Path, archive: Archive, on_bytes: OnBytes = lambda count: None) -> None:
    """Compare a file with the archive's published size and MD5; an unchanged file is not read a second time.

    Raises:
        UserError: the file is missing or is not the archive; both values are named.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path.absolute()}: {error.strerror}; {archive.name} is expected there") from None
    if size != archive.bytes:
        raise UserError(f"{path.absolute()}: has {size:,} bytes, {archive.name} has {archive.bytes:,}: fetch it again")
    note = _note_of(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(note.with_suffix(".lock")):
        seen = _seen(path, archive.md5)
        if _noted(note) == seen:
            on_bytes(size)
            return
        found = _md5(path, on_bytes)
        if found != archive.md5:
            raise UserError(
                f"{path.absolute()}: has MD5 {found}, {archive.name} has {archive.md5}: it is damaged, fetch it again"
            )
        write_json(note, seen)


def note_verified(path: Path, archive: Archive) -> None:
    """Record a file whose MD5 was compared while it arrived."""
    note = _note_of(path)
    note.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(note.with_suffix(".lock")):
        write_json(note, _seen(path, archive.md5))


def _note_of(path: Path) -> Path:
    return scratch_folder() / "verified" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"


def _seen(path: Path, md5: str) -> dict:
    stat = path.stat()
    return {"path": str(path.resolve()), "bytes": stat.st_size, "modified_ns": stat.st_mtime_ns, "md5": md5}


def _noted(note: Path) -> object:
    """The content of a note; None where there is none, or none that is whole."""
    try:
        return read_json(note)
    except UserError:
        return None


def _md5(path: Path, on_bytes: OnBytes) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()
