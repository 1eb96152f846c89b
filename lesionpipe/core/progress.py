"""Progress of long work: a live bar with rate and remaining time in a terminal, a rare plain line in a log."""

import sys
from collections.abc import Iterable

from tqdm import tqdm

LOG_INTERVAL_S = 30


def progress(items: Iterable | None, label: str, total: int | None = None, unit: str = "it") -> tqdm:
    """A tqdm bar over `items`, or one to be advanced by hand where None; bytes (`unit` "B") are shown as kB, MB, …"""
    live = sys.stderr.isatty()
    return tqdm(
        items,
        desc=label,
        total=total,
        unit=unit,
        unit_scale=unit == "B",
        mininterval=0.2 if live else LOG_INTERVAL_S,
        delay=0 if live else LOG_INTERVAL_S,
        dynamic_ncols=live,
    )
