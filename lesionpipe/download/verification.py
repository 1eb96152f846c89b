"""Whether a file is the published archive, by its size and MD5.

The MD5 is remembered in the scratch folder, so that 4 GB are read again only when the file has changed. Of two
processes that verify the same file, one reads it while a lock keeps the other waiting.
"""

import hashlib
from pathlib import Path

from filelock import FileLock

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import OnBytes, remember_checksum, remembered_checksum
from lesionpipe.core.scratch import scratch_folder
from lesionpipe.download.archives import Archive


def verify(path: Path, archive: Archive, on_bytes: OnBytes = lambda count: None) -> None:
    """Compare a file with the archive's published size and MD5; an unchanged file is not read a second time.

    Raises:
        UserError: the file is missing or is not the archive; both values are named.
    """
    path = path.absolute()
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {archive.name} is expected there") from None
    if size != archive.bytes:
        raise UserError(f"{path}: has {size:,} bytes, {archive.name} has {archive.bytes:,}: fetch it again")
    with _lock_on(path):
        found = remembered_checksum(path, on_bytes)
    if found != archive.md5:
        raise UserError(f"{path}: has MD5 {found}, {archive.name} has {archive.md5}: it is damaged, fetch it again")


def note_verified(path: Path, archive: Archive) -> None:
    """Remember that a file is the archive, whose MD5 was compared while it arrived."""
    with _lock_on(path.absolute()):
        remember_checksum(path, archive.md5)


def _lock_on(path: Path) -> FileLock:
    folder = scratch_folder() / "verifying"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.lock")
