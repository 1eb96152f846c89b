"""One file over HTTP, whatever the server does: resumed, retried with growing pauses, checked while it streams.

The archives lie behind redirects on a slow server (DeepLesion; paper, sec. 3). What has come is kept beside the target
as `<name>.partial`, written without a buffer, so that a cut, Ctrl-C or a kill costs nothing; the next attempt hashes it
and asks for the rest (HTTP Range). A server that ignores Range is read from the start again. Only the published size
and MD5 decide; what a server says about lengths is not believed.
"""

import errno
import hashlib
import os
import re
import sys
import threading
from pathlib import Path

import httpx
import tenacity
from filelock import FileLock

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import CHUNK
from lesionpipe.core.hashing import OnBytes
from lesionpipe.download.archives import Archive
from lesionpipe.download.http_client import (
    REDIRECTS,
    Interrupted,
    RefusedRedirect,
    RetryPolicy,
    check_status,
    client,
    pause,
)
from lesionpipe.download.verification import note_verified, verify


class Stopped(Exception):
    """Somebody asked the download to stop; what has come is kept."""


def fetch_archive(
    archive: Archive, target: Path, policy: RetryPolicy, on_bytes: OnBytes, stop: threading.Event
) -> None:
    """Fetch an archive to `target`, going on from `<target>.partial`; a corrupt one is fetched anew once.

    A damaged file at `target` is replaced when the whole archive has come. `on_bytes` gets each change of the number of
    bytes that are there, also a negative one.

    Raises:
        UserError: the server refuses, keeps failing, or sends wrong bytes twice; or the disk is full.
        Stopped: `stop` was set.
    """
    if _fault_of(target, archive) is None:  # perhaps in a folder that can't be written to
        on_bytes(archive.bytes)
        return
    partial = target.with_name(target.name + ".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        fault = _fault_of(target, archive)
        if fault is None:  # another process has just fetched it
            on_bytes(archive.bytes)
            return
        if target.exists():
            print(f"{fault}; that is done now", file=sys.stderr)
        for _ in range(2):
            found = _receive(archive, partial, policy, on_bytes, stop)
            if found == archive.md5:
                partial.replace(target)
                note_verified(target, archive)
                return
            partial.unlink()
            on_bytes(-archive.bytes)
    raise UserError(
        f"{archive.name}: {archive.url} sent bytes of MD5 {found} twice, {archive.md5} is published; "
        "try later, or take a mirror (download.archives)"
    )


def _fault_of(path: Path, archive: Archive) -> str | None:
    """What is wrong with the file at the archive's place, or None where the archive lies there whole."""
    try:
        verify(path, archive)
    except UserError as error:
        return str(error)
    return None


def _receive(archive: Archive, partial: Path, policy: RetryPolicy, on_bytes: OnBytes, stop: threading.Event) -> str:
    """MD5 of all the archive's bytes, once they lie in `partial`."""
    with client(policy.timeout_s) as http, partial.open("ab", buffering=0) as handle:
        transfer = _Transfer(archive, handle, on_bytes, stop)
        transfer.hash_what_is_there(partial)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Interrupted),
            stop=lambda state: transfer.failures > policy.retries,
            wait=lambda state: pause(transfer.failures, state.outcome.exception()),
            sleep=stop.wait,
            reraise=True,
        )
        try:
            retrying(transfer.attempt, http)
        except Interrupted as error:
            raise UserError(
                f"{archive.name}: {error}, {transfer.failures} times in a row; {transfer.size:,} of {archive.bytes:,} "
                f"bytes are kept in {partial}: rerun to go on"
            ) from None
        os.fsync(handle.fileno())
        return transfer.digest.hexdigest()


class _Transfer:
    """The state of one archive's transfer over all attempts: bytes there, their MD5, failures in a row."""

    def __init__(self, archive: Archive, handle, on_bytes: OnBytes, stop: threading.Event) -> None:
        self.archive, self.handle, self.on_bytes, self.stop = archive, handle, on_bytes, stop
        self.digest, self.size = hashlib.md5(usedforsecurity=False), 0
        self.failures, self.furthest = 0, 0

    def hash_what_is_there(self, partial: Path) -> None:
        with partial.open("rb") as kept:
            while chunk := kept.read(CHUNK):
                self._count(chunk)
                if self.stop.is_set():
                    raise Stopped
        if self.size > self.archive.bytes:
            self._restart()
        self.furthest = self.size

    def attempt(self, http: httpx.Client) -> None:
        """Receive what is missing over one connection; a failure that may pass is raised as Interrupted."""
        try:
            self._receive_rest(http)
        except (Interrupted, httpx.TransportError) as error:
            if self.size - self.furthest >= min(CHUNK, self.archive.bytes // 100):
                self.failures = 0  # a slow server that moves on is worth all patience
            self.furthest = max(self.furthest, self.size)
            self.failures += 1
            message = str(error) or type(error).__name__
            raise Interrupted(f"{self.archive.url}: {message}", getattr(error, "wait_s", 0.0)) from None
        except RefusedRedirect as error:
            raise UserError(f"{self.archive.name}: {error}; take a mirror (download.archives)") from None
        except httpx.TooManyRedirects:
            raise UserError(f"{self.archive.name}: {self.archive.url} redirects more than {REDIRECTS} times") from None
        except httpx.InvalidURL as error:
            raise UserError(f"{self.archive.name}: {self.archive.url} is no address: {error}") from None

    def _receive_rest(self, http: httpx.Client) -> None:
        if self.size == self.archive.bytes:
            return
        headers = {"Range": f"bytes={self.size}-"} if self.size else {}
        with http.stream("GET", self.archive.url, headers=headers) as response:
            if response.status_code == 416:  # the server's file ends before what is here
                self._restart()
            check_status(response, self.archive.name)
            self._check_range(response)
            for chunk in response.iter_raw():
                if self.stop.is_set():
                    raise Stopped
                self._store(chunk[: self.archive.bytes - self.size])
                if self.size == self.archive.bytes:
                    return
        raise Interrupted(f"the answer ended at {self.size:,} of {self.archive.bytes:,} bytes")

    def _check_range(self, response: httpx.Response) -> None:
        """Make sure that what follows belongs at `size`; start again where the server sends something else."""
        if response.status_code == 206:
            stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            total = str(self.archive.bytes)
            if stated and int(stated[1]) == self.size and stated[2] in (total, "*"):
                return
            self._restart()
            raise Interrupted(f"wrong Content-Range {response.headers.get('Content-Range')!r} of {total}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"{self.archive.name}: {self.archive.url} answers with a web page instead of an archive")
        if self.size:
            self._restart()  # 200: the server ignores Range and sends all

    def _store(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            try:
                written = self.handle.write(view)
            except OSError as error:
                raise _disk_error(error, self.handle.name, self.archive.bytes - self.size) from None
            self._count(view[:written])
            view = view[written:]

    def _count(self, chunk: bytes | memoryview) -> None:
        self.digest.update(chunk)
        self.size += len(chunk)
        self.on_bytes(len(chunk))

    def _restart(self) -> None:
        self.on_bytes(-self.size)
        self.handle.truncate(0)
        self.digest, self.size = hashlib.md5(usedforsecurity=False), 0


def _disk_error(error: OSError, path: str | Path, missing: int) -> Exception:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return error
    return UserError(
        f"{path}: no space left on the disk, {missing:,} bytes are still to come; what is there is kept: "
        "free some space and rerun"
    )
