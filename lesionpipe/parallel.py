"""Spread independent work over cores, or over a Dask cluster, in order and with progress."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import joblib

from lesionpipe.progress import progress

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Sequence[Item], label: str, workers: int = 0,
                 unit: str = "it") -> Iterator[Result]:  # fmt: skip
    """Yield ``function(item)`` in the order of `items`, whatever the number of workers (0: one per core)."""
    workers = min(workers or os.cpu_count() or 1, max(len(items), 1))
    if workers == 1:
        results: Iterable[Result] = map(function, items)
    else:
        results = joblib.Parallel(n_jobs=workers, return_as="generator")(joblib.delayed(function)(i) for i in items)
    yield from progress(results, label, total=len(items), unit=unit)
