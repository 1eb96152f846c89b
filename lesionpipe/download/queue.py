"""Several archives side by side into a folder: threads, one progress bar in bytes, free disk checked before.

DVC runs the parts one after another; so the download of one part fetches the next ones ahead, and each finds what came.
"""

import queue
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import OnBytes
from lesionpipe.core.progress import progress
from lesionpipe.download.archives import Archive
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.transfer import fault_of, fetch_archive

GRACE_S = 2.0  # for threads to notice that they should stop; they hold nothing that isn't on the disk

Task = Callable[[Archive, OnBytes, threading.Event], None]


def bytes_to_come(archives: Sequence[Archive], folder: Path) -> int:
    """Bytes of these archives that aren't in the folder yet."""
    missing = 0
    for archive in archives:
        target, begun = folder / archive.name, folder / f"{archive.name}.partial"
        if not target.exists() or target.stat().st_size != archive.bytes:
            missing += archive.bytes - min(begun.stat().st_size if begun.exists() else 0, archive.bytes)
    return missing


def fetch_all(
    archives: Sequence[Archive], folder: Path, policy: RetryPolicy, at_a_time: int, ahead: Sequence[Archive] = ()
) -> None:
    """Fetch archives into a folder, `at_a_time` at a time; a failing one doesn't hold up the others.

    Meanwhile those `ahead` are fetched too; they are left half done when the others are there, and may fail. A
    UserError where the disk is too small for what is still to come, or some archives could not be fetched.
    """

    def task(archive: Archive, on_bytes: OnBytes, stop: threading.Event) -> None:
        fetch_archive(archive, folder / archive.name, policy, on_bytes, stop)

    needed = bytes_to_come([*archives, *ahead], folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.absolute()}: downloading {len(archives) + len(ahead)} archives still needs "
            f"{needed / 1e9:.3f} GB, the disk has {free / 1e9:.3f} GB free; free some, name a folder on a larger disk "
            "(dataset.path), or go part by part (docs/download.md)"
        )
    _run(task, archives, ahead, at_a_time, "download")


def verify_all(archives: Sequence[Archive], folder: Path, at_a_time: int) -> None:
    """Compare archives in a folder with their published MD5s, `at_a_time` at a time; a UserError names each bad one."""

    def task(archive: Archive, on_bytes: OnBytes, stop: threading.Event) -> None:
        if fault := fault_of(folder / archive.name, archive, on_bytes):
            raise UserError(fault)

    _run(task, archives, (), at_a_time, "verify")


def _run(task: Task, archives: Sequence[Archive], ahead: Sequence[Archive], at_a_time: int, label: str) -> None:
    """Treat archives in threads until all but those `ahead` are there or have failed."""
    waiting = iter([*archives, *ahead])  # all threads take the next one from here
    done: queue.SimpleQueue = queue.SimpleQueue()
    bar = progress(None, label, total=sum(archive.bytes for archive in archives), unit="B")
    stop, lock, missing, failures = threading.Event(), threading.Lock(), set(archives), []

    def advance(archive: Archive, count: int) -> None:
        with lock:
            bar.update(count if archive in archives else 0)

    def work() -> None:
        for archive in waiting:
            if stop.is_set():
                return
            try:
                task(archive, partial(advance, archive), stop)
                done.put((archive, None))
            except BaseException as error:  # handed over to the waiting thread
                done.put((archive, error))

    # daemons: Ctrl-C must not wait for a silent server
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(at_a_time, len(archives) + len(ahead)))]
    for thread in threads:
        thread.start()
    try:
        while missing:
            archive, error = done.get()
            missing.discard(archive)
            if isinstance(error, UserError) and archive in archives:
                failures.append(str(error))
            elif isinstance(error, UserError):
                print(f"fetching ahead: {error}", file=sys.stderr)
            elif error:
                raise error
    finally:
        stop.set()
        for thread in threads:
            thread.join(GRACE_S)
        bar.close()
    if failures:
        raise UserError("; ".join(failures))
