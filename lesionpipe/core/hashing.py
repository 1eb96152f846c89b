"""Checksums of files."""

import hashlib
from pathlib import Path

from lesionpipe.core.files import CHUNK


def checksum(path: str | Path, algorithm: str = "md5") -> str:
    """Hex digest of a file, read in pieces."""
    digest = hashlib.new(algorithm, usedforsecurity=False)
    with Path(path).open("rb") as handle:
        while chunk := handle.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
