"""Checksums of whole files, remembered so that a large file that has not changed is read once.

A remembered checksum is bound to the file's device, inode, size and time of last change, as DVC does it. They lie in
the scratch folder, one small file each, so that any number of processes may look and add at the same time.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from lesionpipe.core.files import CHUNK, write_text
from lesionpipe.core.scratch import scratch_folder

CHECKSUMS = "checksums"  # folder of the scratch folder

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
    """MD5 of the whole file as hex digits; read again only where the file is another or was changed.

    Raises:
        FileNotFoundError: there is no such file.
    """
    before = _identity(path)
    known = _known(_place(before), before)
    if known is not None:
        on_bytes(Path(path).stat().st_size)
        return known
    digest = checksum(path, on_bytes=on_bytes)
    if _identity(path) == before:  # not written to in the meantime
        remember_checksum(path, digest)
    return digest


def remember_checksum(path: str | Path, md5: str) -> None:
    """Remember the MD5 of a file that was computed while it was written."""
    identity = _identity(path)
    write_text(_place(identity), json.dumps({"file": identity, "md5": md5}))


def _place(identity: str) -> Path:
    return scratch_folder() / CHECKSUMS / f"{hashlib.sha256(identity.encode()).hexdigest()}.json"


def _identity(path: str | Path) -> str:
    """What changes when a file is replaced or written to; links are followed."""
    status = Path(path).stat()
    return f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _known(place: Path, identity: str) -> str | None:
    """The remembered digest; None where there is none, or only a damaged note of one."""
    try:
        note = json.loads(place.read_text(encoding="utf-8"))
        return note["md5"] if note["file"] == identity else None
    except (OSError, ValueError, LookupError, TypeError):
        return None
