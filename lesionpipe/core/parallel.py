"""Spread independent work over cores or over a Dask cluster: results in order, memory bounded, progress shown.

One loop serves every engine (threads, processes, cluster), because each has `submit(function, item) -> future`. Only a
few items per worker are under way at a time, so results that wait to be written never pile up. A function that is pure
gives the same results with any engine and any number of workers.

Worker processes import the package from where this process has it, so that two checkouts never mix.
On a cluster (`runtime.cluster: tcp://…`) the function and its items travel to the workers and the results come back to
this process, which alone writes. Its workers need lesionpipe installed and see the data under the same absolute path.
"""

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from typing import Literal, TypeVar

from loky import ProcessPoolExecutor

from lesionpipe.core.errors import UserError
from lesionpipe.core.progress import Item, progress

Result = TypeVar("Result")
Submit = Callable[[Callable[[Item], Result], Item], Future]

ITEMS_PER_WORKER = 4  # under way at a time: one worked on, the others waiting while results are written
CONNECT_TIMEOUT_S = 30
_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
Engine = Literal["processes", "threads"]


def parallel_map(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    label: str,
    workers: int = 0,
    unit: str = "it",
    cluster: str | None = None,
) -> Iterator[Result]:
    """`spread` over processes or a cluster, with a progress bar over the items."""
    yield from progress(spread(function, items, workers, "processes", cluster), label, total=len(items), unit=unit)


def spread(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int = 0,
    engine: Engine = "processes",
    cluster: str | None = None,
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of `items`, whatever the number of workers.

    Args:
        workers: 0 for one per core; 1 works here, without any engine.
        engine: "threads" for work that releases the GIL (decoding, inflating, OpenCV), which spares the copies.
        cluster: address of a Dask scheduler; it decides over workers and engine.

    Raises:
        UserError: the cluster cannot be reached, or a worker was killed. Whatever `function` raises comes through.
    """
    workers = min(workers or cores(), max(len(items), 1))
    if workers == 1 and not cluster:
        yield from map(function, items)
        return
    opened = _cluster(cluster) if cluster else _local(workers, engine)
    with opened as (submit, workers):
        yield from _in_order(submit, function, items, ITEMS_PER_WORKER * workers)


def cores() -> int:
    """Cores this process may use (a container or scheduler may allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_order(
    submit: Submit, function: Callable[[Item], Result], items: Sequence[Item], ahead: int
) -> Iterator[Result]:
    """Keep `ahead` items under way; yield the oldest result when it is there."""
    pending: deque[Future] = deque()
    try:
        for item in items:
            pending.append(submit(function, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


@contextlib.contextmanager
def _local(workers: int, engine: Engine) -> Iterator[tuple[Submit, int]]:
    """Threads, or processes of one thread each."""
    limits = dict.fromkeys(_LIMITS, "1")
    executor = ThreadPoolExecutor(workers) if engine == "threads" else ProcessPoolExecutor(workers, env=limits)
    try:
        with executor:
            yield executor.submit, workers
    except BrokenExecutor:
        raise UserError("a worker process was killed, mostly for lack of memory: set runtime.workers lower") from None


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[tuple[Submit, int]]:
    """The workers of a Dask scheduler."""
    try:
        import distributed
    except ImportError:
        raise UserError(f"runtime.cluster = {address}: needs Dask; pip install -e '.[cluster]'") from None
    try:
        client = distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"runtime.cluster = {address}: no scheduler answers there ({error})") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError(f"runtime.cluster = {address}: the scheduler has no workers; start some with `dask worker`")
        try:
            yield lambda function, item: client.submit(function, item, pure=False), threads
        except distributed.KilledWorker as error:
            raise UserError(f"runtime.cluster = {address}: workers died, mostly for lack of memory ({error})") from None
