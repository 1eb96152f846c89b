"""Spread independent work over cores or over a Dask cluster: results in order, memory bounded.

One loop serves every engine (threads, processes, cluster), because each has `submit(function, item) -> future`. A
function that is pure gives the same results with any engine and any number of workers.

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

Item, Result = TypeVar("Item"), TypeVar("Result")
Submit = Callable[[Callable[[Item], Result], Item], Future]

ITEMS_PER_WORKER = 4  # under way at a time, so that results which wait to be written never pile up
CONNECT_TIMEOUT_S = 30
_LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OPENCV_FOR_THREADS_NUM")
ONE_THREAD = dict.fromkeys(_LIBRARIES, "1")


def spread(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int = 0,
    engine: Literal["processes", "threads"] = "processes",
    cluster: str | None = None,
) -> Iterator[Result]:
    """Yield ``function(item)`` in the order of `items`, whatever the number of workers.

    Args:
        workers: 0 for one per core; 1 works here, without any engine.
        engine: "threads" for work that releases the GIL (decoding, inflating, OpenCV), which spares the copies.
        cluster: address of a Dask scheduler; it decides over workers and engine.

    A UserError where the cluster can't be reached or a worker was killed; whatever `function` raises comes through.
    """
    workers = min(workers or cores(), max(len(items), 1))
    if workers == 1 and not cluster:
        yield from map(function, items)
        return
    pending: deque[Future] = deque()
    with _cluster(cluster) if cluster else _local(workers, engine) as (submit, workers):
        try:
            for item in items:
                pending.append(submit(function, item))
                if len(pending) >= ITEMS_PER_WORKER * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def cores() -> int:
    """Cores this process may use (a container or scheduler may allow fewer than the machine has)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def _local(workers: int, engine: str) -> Iterator[tuple[Submit, int]]:
    executor = ThreadPoolExecutor(workers) if engine == "threads" else ProcessPoolExecutor(workers, env=ONE_THREAD)
    try:
        with executor:
            yield executor.submit, workers
    except BrokenExecutor:
        raise UserError("a worker process was killed, mostly for lack of memory: set runtime.workers lower") from None


@contextlib.contextmanager
def _cluster(address: str) -> Iterator[tuple[Submit, int]]:
    place = f"runtime.cluster = {address}"
    try:
        import distributed
    except ImportError:
        raise UserError(f"{place}: needs Dask; pip install -e '.[cluster]'") from None
    try:
        client = distributed.Client(address, timeout=CONNECT_TIMEOUT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{place}: no scheduler answers there ({error})") from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise UserError(f"{place}: the scheduler has no workers; start some with `dask worker`")
        try:
            yield lambda function, item: client.submit(function, item, pure=False), threads
        except distributed.KilledWorker as error:
            raise UserError(f"{place}: workers died, mostly for lack of memory ({error})") from None
