"""Named DVC experiments of one commit: which are finished, and whether they ran with today's parameters and code."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML

from lesionpipe.commands.preset import KEPT, Settings, differing, settings_of
from lesionpipe.core.errors import UserError

STOP_TIMEOUT_S = 60  # for an experiment that is stopped to store its state
PIPELINE_FILE = "dvc.yaml"


def require_dvc_repository() -> None:
    """Raise where there are no experiments to be had."""
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", "HEAD"], check=False, capture_output=True)
    if known.returncode or not Path(PIPELINE_FILE).is_file() or not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()}: not the folder of a DVC pipeline in Git; change to the one that holds dvc.yaml")


def head_commit() -> str:
    return _output("git", "rev-parse", "HEAD").strip()


def finished_experiments(commit: str) -> dict[str, str]:
    """Git reference by name of the experiments whose baseline is `commit`; DVC writes it once all stages are done."""
    folder = f"refs/exps/{commit[:2]}/{commit[2:]}/"
    found = _output("git", "for-each-ref", "--format=%(refname)", folder).split()
    return {reference.removeprefix(folder): reference for reference in found}


def tracked_settings(text: str) -> Settings:
    """Parameters by full name from the text of a params.yaml, without those that say nothing of the result."""
    settings = settings_of(YAML(typ="safe", pure=True).load(text))
    return {name: value for name, value in settings.items() if not name.startswith(f"{KEPT}.")}


def other_parameters(reference: str, expected: Settings) -> list[str]:
    """Names of the parameters with which an experiment did not run as `expected`."""
    return differing(tracked_settings(_output("git", "show", f"{reference}:./params.yaml")), expected)


def other_code(reference: str) -> list[str]:
    """Files in Git, of those that stages depend on, that differ between an experiment and the workspace."""
    stages = YAML(typ="safe", pure=True).load(Path(PIPELINE_FILE).read_text(encoding="utf-8"))["stages"]
    dependencies = {path for stage in stages.values() for path in stage.get("deps", []) if "${" not in path}
    return _output("git", "diff", "--name-only", reference, "--", PIPELINE_FILE, *sorted(dependencies)).splitlines()


def dvc_output(*words: str) -> str:
    """What a short DVC command prints; raises UserError with its complaint."""
    return _output(sys.executable, "-m", "dvc", *words)


def run_stoppable(words: list[str], output: int | None = None) -> int:
    """Exit code of a command, which is stopped with all that it has started when this process is.

    Args:
        output: file descriptor for what it prints; None: this process's.
    """
    process = subprocess.Popen(words, process_group=0, stdout=output)
    try:
        return process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def _output(*words: str) -> str:
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        shown = " ".join(words).removeprefix(f"{sys.executable} -m ")
        raise UserError(f"{shown}: {' '.join(done.stderr.split())}")
    return done.stdout
