"""One archive over HTTP, whatever the server does: resumed, retried with growing pauses, checked while it streams.

The archives lie behind redirects on a slow server (DeepLesion; paper, sec. 3). What has come is kept beside the target
as `<name>.partial`, written without a buffer, so that a cut, Ctrl-C or a kill costs nothing; the next attempt hashes it
and asks for the rest (HTTP Range). A server that ignores Range is read from the start again. Only the published size
and MD5 decide; what a server says about lengths is not believed.

The MD5 of a whole file is remembered in the scratch folder, so that 4 GB are read again only when it has changed. Of
two processes that verify the same file, one reads it while a lock keeps the other waiting.
"""

import errno
import hashlib
import os
import re
import sys
import threading
from pathlib import Path

import httpx
from filelock import FileLock

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import CHUNK, scratch_folder
from lesionpipe.core.hashing import OnBytes, remember_checksum, remembered_checksum
from lesionpipe.download.archives import Archive
from lesionpipe.download.http_client import REDIRECTS, Interrupted, RetryPolicy, check_status, client, pause


class Stopped(Exception):
    """Somebody asked the download to stop; what has come is kept."""


def fetch_archive(
    archive: Archive, target: Path, policy: RetryPolicy, on_bytes: OnBytes, stop: threading.Event
) -> None:
    """Fetch an archive to `target`, going on from `<target>.partial`; a corrupt one is fetched anew once.

    A damaged file at `target` is replaced when the whole archive has come. `on_bytes` gets each change of the number of
    bytes that are there, also a negative one. A UserError where the server refuses, keeps failing, or sends wrong bytes
    twice, or the disk is full; Stopped where `stop` was set.
    """
    if fault_of(target, archive) is None:  # perhaps in a folder that can't be written to
        on_bytes(archive.bytes)
        return
    partial = target.with_name(target.name + ".partial")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        fault = fault_of(target, archive)
        if fault is None:  # another process has just fetched it
            on_bytes(archive.bytes)
            return
        if target.exists():
            print(f"{fault}; that is done now", file=sys.stderr)
        for _ in range(2):
            found = _received(archive, partial, policy, on_bytes, stop)
            if found == archive.md5:
                partial.replace(target)
                remember_checksum(target, archive.md5)
                return
            partial.unlink()
            on_bytes(-archive.bytes)
    raise UserError(
        f"{archive.name}: {archive.url} sent bytes of MD5 {found} twice, {archive.md5} is published; "
        "try later, or take a mirror (download.archives)"
    )


def fault_of(path: Path, archive: Archive, on_bytes: OnBytes = lambda count: None) -> str | None:
    """What is wrong with a file that should be the archive by its published size and MD5; None: it is the archive."""
    path = path.absolute()
    try:
        size = path.stat().st_size
    except OSError as error:
        return f"{path}: {error.strerror}; {archive.name} is expected there"
    if size != archive.bytes:
        return f"{path}: has {size:,} bytes, {archive.name} has {archive.bytes:,}: fetch it again"
    lock = scratch_folder() / "verifying" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        found = remembered_checksum(path, on_bytes)
    if found != archive.md5:
        return f"{path}: has MD5 {found}, {archive.name} has {archive.md5}: it is damaged, fetch it again"
    return None


def _received(archive: Archive, partial: Path, policy: RetryPolicy, on_bytes: OnBytes, stop: threading.Event) -> str:
    """MD5 of all the archive's bytes, once they lie in `partial`; whatever ends the transfer names the archive."""
    place = f"{archive.name}: {archive.url}"
    with client(policy.timeout_s) as http, partial.open("a+b", buffering=0) as handle:
        transfer = _Transfer(archive, handle, on_bytes, stop)
        try:
            transfer.hash_what_is_there()
            transfer.receive(http, policy.retries)
            os.fsync(handle.fileno())
        except Interrupted as error:
            kept = f"{transfer.size:,} of {archive.bytes:,} bytes are kept in {partial}"
            raise UserError(f"{place}: {error}; {kept}: rerun to go on") from None
        except (UserError, httpx.InvalidURL) as error:
            raise UserError(f"{place}: {error}; correct the address or take a mirror (download.archives)") from None
        except httpx.TooManyRedirects:
            raise UserError(f"{place}: redirects more than {REDIRECTS} times") from None
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            to_come = f"{archive.bytes - transfer.size:,} bytes are still to come; what is there is kept"
            raise UserError(f"{partial}: no space left on the disk, {to_come}: free some space and rerun") from None
        return transfer.digest.hexdigest()


class _Transfer:
    """The state of one archive's transfer over all attempts: the bytes that are there and their MD5."""

    def __init__(self, archive: Archive, handle, on_bytes: OnBytes, stop: threading.Event) -> None:
        self.archive, self.handle, self.on_bytes, self.stop = archive, handle, on_bytes, stop
        self.digest, self.size = hashlib.md5(usedforsecurity=False), 0

    def hash_what_is_there(self) -> None:
        self.handle.seek(0)
        while chunk := self.handle.read(CHUNK):
            self._count(chunk)
        if self.size > self.archive.bytes:
            self._restart()

    def receive(self, http: httpx.Client, retries: int) -> None:
        """Receive what is missing, over as many connections as it takes; Interrupted after `retries` more in a row."""
        failures, furthest = 0, self.size
        while self.size < self.archive.bytes:
            try:
                self._receive_rest(http)
            except (Interrupted, httpx.TransportError) as error:
                moved_on = self.size - furthest >= min(CHUNK, self.archive.bytes // 100)
                failures = 1 if moved_on else failures + 1  # a slow server that moves on is worth all patience
                furthest = max(furthest, self.size)
                if failures > retries:
                    raise Interrupted(f"{str(error) or type(error).__name__}, {failures} times in a row") from None
                if self.stop.wait(pause(failures, error)):
                    raise Stopped from None

    def _receive_rest(self, http: httpx.Client) -> None:
        headers = {"Range": f"bytes={self.size}-"} if self.size else {}
        with http.stream("GET", self.archive.url, headers=headers) as response:
            if response.status_code == 416:  # the server's file ends before what is here
                self._restart()
            check_status(response)
            self._check_range(response)
            for chunk in response.iter_raw():
                self._store(chunk[: self.archive.bytes - self.size])
                if self.size == self.archive.bytes:
                    return
        raise Interrupted(f"the answer ended at {self.size:,} of {self.archive.bytes:,} bytes")

    def _check_range(self, response: httpx.Response) -> None:
        """Make sure that what follows belongs at `size`; start again where the server sends something else."""
        if response.status_code == 206:
            stated = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
            total = str(self.archive.bytes)
            if not stated or int(stated[1]) != self.size or stated[2] not in (total, "*"):
                self._restart()
                raise Interrupted(f"wrong Content-Range {response.headers.get('Content-Range')!r} of {total}")
        elif response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError("answers with a web page instead of an archive")
        elif self.size:
            self._restart()  # 200: the server ignores Range and sends all

    def _store(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            written = self.handle.write(view)
            self._count(view[:written])
            view = view[written:]

    def _count(self, chunk: bytes | memoryview) -> None:
        if self.stop.is_set():
            raise Stopped
        self.digest.update(chunk)
        self.size += len(chunk)
        self.on_bytes(len(chunk))

    def _restart(self) -> None:
        self.on_bytes(-self.size)
        self.handle.truncate(0)
        self.digest, self.size = hashlib.md5(usedforsecurity=False), 0
