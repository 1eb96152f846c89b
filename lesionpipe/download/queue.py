"""Several archives side by side into the scratch folder: threads, one progress bar in bytes, free disk checked before.

DVC runs the parts one after another; so the download of one part fetches the next ones ahead, and each finds what came.
"""

import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from lesionpipe.core.errors import UserError
from lesionpipe.core.progress import progress
from lesionpipe.download.archives import Archive, require_space, scratch_folder
from lesionpipe.download.transfer import Patience, Stopped, fetch

GRACE_S = 2.0  # for threads to notice that they should stop; they hold nothing that isn't on the disk


def downloads_folder() -> Path:
    """Where archives arrive."""
    return scratch_folder() / "downloads"


def bytes_to_come(archives: Sequence[Archive]) -> int:
    """Bytes of these archives that aren't in the scratch folder yet."""
    folder, missing = downloads_folder(), 0
    for archive in archives:
        target, partial = folder / archive.name, folder / f"{archive.name}.partial"
        if not target.exists():
            missing += archive.bytes - min(partial.stat().st_size if partial.exists() else 0, archive.bytes)
    return missing


def fetch_all(archives: Sequence[Archive], patience: Patience) -> list[Path]:
    """Fetch archives, `patience.downloads` at a time; a failing one doesn't hold up the others.

    Raises:
        UserError: the disk is too small for what is still to come, or some archives could not be fetched.
    """
    require_space(downloads_folder(), bytes_to_come(archives), f"downloading {len(archives)} archives")
    failures = _run(archives, archives, patience, "download")
    if failures:
        raise UserError("; ".join(str(error) for error in failures.values()))
    return [downloads_folder() / archive.name for archive in archives]


def fetch_first(archives: Sequence[Archive], patience: Patience) -> Path:
    """Fetch the first archive, and meanwhile the next ones ahead; those are left half done when the first is there.

    Raises:
        UserError: the first could not be fetched.
    """
    first = archives[0]
    failures = _run(archives, [first], patience, f"download {first.part}")
    if first in failures:
        raise failures[first]
    for error in failures.values():
        print(f"fetching ahead: {error}", file=sys.stderr)
    return downloads_folder() / first.name


def _run(archives: Sequence[Archive], wanted: Sequence[Archive], patience: Patience, label: str) -> dict:
    """Errors by archive, once all wanted ones are there or have failed."""
    waiting: queue.SimpleQueue = queue.SimpleQueue()
    done: queue.SimpleQueue = queue.SimpleQueue()
    stop, failures, missing = threading.Event(), {}, set(wanted)
    for archive in archives:
        waiting.put(archive)
    bar = progress(None, label, total=sum(a.bytes for a in wanted), unit="B", unit_scale=True)
    counted = _Counter(bar)
    # daemons: Ctrl-C must not wait for a silent server
    threads = [
        threading.Thread(target=_work, args=(waiting, done, patience, counted, missing.copy(), stop), daemon=True)
        for _ in range(min(patience.downloads, len(archives)))
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


def _work(waiting, done, patience: Patience, counted: "_Counter", shown: set[Archive], stop: threading.Event) -> None:
    """Fetch one archive after another until none is left."""
    while not stop.is_set():
        try:
            archive = waiting.get_nowait()
        except queue.Empty:
            return
        on_bytes = counted if archive in shown else _silent
        try:
            fetch(archive, downloads_folder() / archive.name, patience, on_bytes, stop)
            done.put((archive, None))
        except Stopped:
            return
        except BaseException as error:  # handed over to the waiting thread
            done.put((archive, error))


class _Counter:
    """A progress bar that several threads advance."""

    def __init__(self, bar: tqdm) -> None:
        self.bar, self.lock = bar, threading.Lock()

    def __call__(self, count: int) -> None:
        with self.lock:
            self.bar.update(count)


def _silent(count: int) -> None:
    pass
