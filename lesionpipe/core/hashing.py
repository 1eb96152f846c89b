"""Checksums of whole files, remembered so that a large file that has not changed is read once.

A remembered checksum is bound to the file's device, inode, size and time of last change, as DVC does it. They lie in
the scratch folder, one small file each, so that any number of processes may look and add at the same time.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from lesionpipe.core.files import CHUNK, scratch_folder, write_text

OnBytes = Callable[[int], object]  # called with the number of bytes that were done since the last call


def checksum(path: str | Path, algorithm: str = "md5", on_bytes: OnBytes = lambda count: None) -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with Path(path).open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def remembered_checksum(path: str | Path, on_bytes: OnBytes = lambda count: None) -> str:
    """MD5 of the whole file as hex digits; read again only where the file is another or was changed."""
    note, digest = _note(path), None
    with contextlib.suppress(OSError, ValueError, LookupError, TypeError):  # no note, or a damaged one
        digest = json.loads(note.read_text(encoding="utf-8"))["md5"]
    if digest is not None:
        on_bytes(Path(path).stat().st_size)
        return digest
    digest = checksum(path, on_bytes=on_bytes)
    if _note(path) == note:  # not written to in the meantime
        remember_checksum(path, digest)
    return digest


def remember_checksum(path: str | Path, md5: str) -> None:
    """Remember the MD5 of a file that was computed while it was written."""
    write_text(_note(path), json.dumps({"md5": md5}))


def _note(path: str | Path) -> Path:
    """Where the checksum of a file as it is now is noted; links are followed."""
    status = Path(path).stat()
    identity = f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"
    return scratch_folder() / "checksums" / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"
