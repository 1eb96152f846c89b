"""The paper's ablation (Table 1): its four rows as named DVC experiments, and their comparison."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import dvc.api
import typer

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.params import load_params

PARAMS = Path("params.yaml")
STOP_TIMEOUT_S = 60  # for a row that is stopped to store its state
UNFINISHED = ".new"  # behind the name of a row that is run again, until it is done
# Each row moves the switches of the one before; what a row does not name is as in params.yaml.
ROWS: dict[str, dict[str, str]] = {
    "original": {
        "anchors.use": "default",
        "network.levels": "P3-P7",
        "network.mask_branch": "false",
        "network.attention": "false",
    },
    "anchor-optimisation": {
        "anchors.use": "searched",
        "network.levels": "P3-P7",
        "network.mask_branch": "false",
        "network.attention": "false",
    },
    "dense-supervision": {
        "anchors.use": "searched",
        "network.levels": "P2-P6",
        "network.mask_branch": "true",
        "network.attention": "false",
    },
    "attention-gate": {
        "anchors.use": "searched",
        "network.levels": "P2-P6",
        "network.mask_branch": "true",
        "network.attention": "true",
    },
}
RATES_SHOWN = ("0.5", "1", "2", "4", "8", "16")


def row_command(row: str) -> list[str]:
    """The `dvc exp run` command of a row, as a list of words."""
    settings = [word for name, value in ROWS[row].items() for word in ("-S", f"{name}={value}")]
    return ["dvc", "exp", "run", "--name", row, *settings]


def ablation(
    only_table: Annotated[bool, typer.Option("--table", help="Only print the finished rows.")] = False,
) -> None:
    """Run the paper's four rows as named experiments and print their FROC side by side.

    A row that this commit has already is run again, and replaced when the new one is done.
    """
    _check_repository()
    if not only_table:
        load_params(PARAMS)
        with _restored(PARAMS), _stopped_by_signals():
            for row in ROWS:
                _run(row)
    finished = {e["Experiment"]: e for e in dvc.api.exp_show() if e.get("Experiment") in ROWS}
    if not finished:
        raise UserError("no row has been run on this commit yet; run `lesionpipe ablation`")
    print(ablation_table(finished))


def ablation_table(experiments: dict[str, dict]) -> str:
    """Markdown table of sensitivities (%) on the test split, one line per row; a dash where a row isn't finished."""
    lines = ["| row | " + " | ".join(f"{r} FP" for r in RATES_SHOWN) + " |", "|---" * (len(RATES_SHOWN) + 1) + "|"]
    for row in ROWS:
        cells = [_percent(experiments.get(row, {}), rate) for rate in RATES_SHOWN]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(experiment: dict, rate: str) -> str:
    value = next((v for k, v in experiment.items() if k.endswith(f"test.sensitivity_at_{rate}")), None)
    return "–" if value is None else f"{100 * value:.1f}"


def _check_repository() -> None:
    """Raise where there are no experiments to be had."""
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", "HEAD"], check=False, capture_output=True)
    if known.returncode or not Path("dvc.yaml").is_file() or not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()}: not the folder of a DVC pipeline in Git; change to the one that holds dvc.yaml")


def _run(row: str) -> None:
    """Run a row. An experiment of its name on this commit stays until the new one is done; others are left alone."""
    existing = _dvc("exp", "list", "--name-only").split()
    words = row_command(row)
    if row + UNFINISHED in existing:  # done, but not renamed by a run that was killed
        _dvc("exp", "remove", row + UNFINISHED)
    if row in existing:
        words[words.index(row)] = row + UNFINISHED
    print("$ " + " ".join(words), flush=True)
    if _call([sys.executable, "-m", *words]):
        raise UserError("the row stopped, see above; finished stages are cached: the same command goes on from there")
    if row in existing:
        _dvc("exp", "rename", "--force", row + UNFINISHED, row)


def _dvc(*words: str) -> str:
    """What a short DVC command prints; raises UserError with its complaint."""
    done = subprocess.run([sys.executable, "-m", "dvc", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"dvc {' '.join(words)}: {' '.join(done.stderr.split())}")
    return done.stdout


def _call(words: list[str]) -> int:
    """Exit code of a command, which is stopped with all that it has started when this process is."""
    process = subprocess.Popen(words, process_group=0)
    try:
        return process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


@contextlib.contextmanager
def _restored(path: Path) -> Iterator[None]:
    """The file has its present content again in the end: an experiment leaves its own settings behind."""
    content = path.read_bytes()
    try:
        yield
    finally:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Requests to end (of a batch system, a closed terminal) unwind the program as Ctrl-C does."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough, there is much to clear up
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
