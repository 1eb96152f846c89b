"""Several archives side by side into a folder: threads, one progress bar in bytes, free disk checked before.

DVC runs the parts one after another; so the download of one part fetches the next ones ahead, and each finds what came.
"""

import queue
import shutil
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lesionpipe.core.errors import UserError
from lesionpipe.core.hashing import OnBytes
from lesionpipe.core.progress import progress
from lesionpipe.download.archives import Archive
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.transfer import Stopped, fetch_archive
from lesionpipe.download.verification import verify

GRACE_S = 2.0  # for threads to notice that they should stop; they hold nothing that isn't on the disk

Task = Callable[[Archive, OnBytes, threading.Event], None]


def bytes_to_come(archives: Sequence[Archive], folder: Path) -> int:
    """Bytes of these archives that aren't in the folder yet."""
    missing = 0
    for archive in archives:
        target, partial = folder / archive.name, folder / f"{archive.name}.partial"
        if not target.exists() or target.stat().st_size != archive.bytes:
            missing += archive.bytes - min(partial.stat().st_size if partial.exists() else 0, archive.bytes)
    return missing


def require_space(folder: Path, needed: int, what: str) -> None:
    """Stop before the work when the disk of `folder` can't take `needed` more bytes.

    Raises:
        UserError: both figures are named.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder.absolute()}: {what} still needs {needed / 1e9:.3f} GB, the disk has {free / 1e9:.3f} GB free; "
            "free some, name a folder on a larger disk (dataset.path), or go part by part (docs/download.md)"
        )


def fetch_all(archives: Sequence[Archive], folder: Path, policy: RetryPolicy, at_a_time: int) -> None:
    """Fetch archives into a folder, `at_a_time` at a time; a failing one doesn't hold up the others.

    Raises:
        UserError: the disk is too small for what is still to come, or some archives could not be fetched.
    """
    require_space(folder, bytes_to_come(archives, folder), f"downloading {len(archives)} archives")
    _require_success(_run(archives, archives, _fetch_into(folder, policy), at_a_time, "download"))


def fetch_first(archives: Sequence[Archive], folder: Path, policy: RetryPolicy, at_a_time: int) -> None:
    """Fetch the first archive, and meanwhile the next ones ahead; those are left half done when the first is there.

    Raises:
        UserError: the disk is too small for all of them, or the first could not be fetched.
    """
    require_space(folder, bytes_to_come(archives, folder), f"downloading {len(archives)} archives")
    first = archives[0]
    failures = _run(archives, [first], _fetch_into(folder, policy), at_a_time, f"download {first.part}")
    if first in failures:
        raise failures[first]
    for error in failures.values():
        print(f"fetching ahead: {error}", file=sys.stderr)


def verify_all(archives: Sequence[Archive], folder: Path, at_a_time: int) -> None:
    """Compare archives in a folder with their published MD5s, `at_a_time` at a time.

    Raises:
        UserError: some are missing or are not the archives; each is named.
    """

    def task(archive: Archive, on_bytes: OnBytes, stop: threading.Event) -> None:
        verify(folder / archive.name, archive, on_bytes)

    _require_success(_run(archives, archives, task, at_a_time, "verify"))


def _fetch_into(folder: Path, policy: RetryPolicy) -> Task:
    return lambda archive, on_bytes, stop: fetch_archive(archive, folder / archive.name, policy, on_bytes, stop)


def _require_success(failures: dict[Archive, UserError]) -> None:
    if failures:
        raise UserError("; ".join(str(error) for error in failures.values()))


def _run(
    archives: Sequence[Archive], wanted: Sequence[Archive], task: Task, at_a_time: int, label: str
) -> dict[Archive, UserError]:
    """Errors by archive, once all wanted ones are there or have failed."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    done: queue.SimpleQueue = queue.SimpleQueue()
    stop, failures, missing = threading.Event(), {}, set(wanted)
    for archive in archives:
        waiting.put(archive)
    bar, lock = progress(None, label, total=sum(a.bytes for a in wanted), unit="B", unit_scale=True), threading.Lock()

    def advance(count: int) -> None:
        with lock:
            bar.update(count)

    # daemons: Ctrl-C must not wait for a silent server
    threads = [
        threading.Thread(target=_work, args=(waiting, done, task, advance, missing.copy(), stop), daemon=True)
        for _ in range(min(at_a_time, len(archives)))
    ]
    for thread in threads:
        thread.start()
    try:
        while missing:
            archive, error = done.get()
            missing.discard(archive)
            if isinstance(error, UserError):
                failures[archive] = error
            elif error:
                raise error
    finally:
        stop.set()
        for thread in threads:
            thread.join(GRACE_S)
        bar.close()
    return failures


def _work(waiting, done, task: Task, advance: OnBytes, shown: set[Archive], stop: threading.Event) -> None:
    """Treat one archive after another until none is left."""
    while not stop.is_set():
        try:
            archive = waiting.get_nowait()
        except queue.Empty:
            return
        on_bytes = advance if archive in shown else lambda count: None
        try:
            task(archive, on_bytes, stop)
            done.put((archive, None))
        except Stopped:
            return
        except BaseException as error:  # handed over to the waiting thread
            done.put((archive, error))
