"""params.yaml while a row runs: DVC leaves the row's settings in it, and the user's come back, also after a kill.

Before a row starts, the user's text is put aside into DVC's temporary folder. The process and the DVC that it starts
hold a lock on that file, so that it is known whether a row still runs; the system drops it with the last of them.
"""

import contextlib
import fcntl
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from dvc.utils.flatten import flatten
from ruamel.yaml import YAML

from lesionpipe.commands.preset import KEPT, Settings
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path, write_text

PARAMS, ASIDE = Path("params.yaml"), Path(".dvc/tmp/ablation.json")
load_yaml = YAML(typ="safe", pure=True).load


def tracked(values: dict) -> Settings:
    """Parameters from what a params.yaml holds, by section, without those that say nothing of the result."""
    return {name: value for name, value in flatten(values).items() if not name.startswith(f"{KEPT}.")}


def own_params(reading: bool) -> str:
    """The text of params.yaml without the settings of a row, which a row that was killed has left there.

    They are replaced by the user's if nothing else was changed since. A UserError while a row still runs in this
    folder, unless one only wants to read.
    """
    if not ASIDE.exists():
        return _text()
    with ASIDE.open() as handle:
        aside = json.load(handle)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if reading:
                return aside["text"]
            raise UserError(f"a row still runs in {Path.cwd()}; wait for its end, or work in another clone") from None
        if tracked(load_yaml(_text())) == aside["row"]:
            _write(aside["text"])
            print(f"{PARAMS}: as it was before a row that was killed", file=sys.stderr)
        ASIDE.unlink()
    return _text()


@contextlib.contextmanager
def row_settings(row: Settings) -> Iterator[int]:
    """params.yaml may become `row` and is in the end as before; yields the lock, for processes to inherit.

    Requests to end (of a batch system, a closed terminal) unwind the program as Ctrl-C does.
    """

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough, there is much to clear up
        raise KeyboardInterrupt

    text = _text()
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    write_text(ASIDE, json.dumps({"text": text, "row": row}))
    try:
        with ASIDE.open() as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield handle.fileno()
    finally:
        _write(text)
        ASIDE.unlink(missing_ok=True)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _text() -> str:
    return PARAMS.read_bytes().decode("utf-8")  # with the line ends that it has


def _write(text: str) -> None:
    with atomic_path(PARAMS) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
