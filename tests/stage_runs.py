"""Runs a stage as DVC does, `python -m stages.NAME` in a checkout, and kills it (kill -9) where a test asks for it."""

import os
import subprocess
import sys
from pathlib import Path

RUN_MODULE = """
import runpy, sys
sys.argv[1:] = {arguments!r}
runpy.run_module({module!r}, run_name="__main__", alter_sys=True)
"""
KILL_AT_MOVE = """
import os, pathlib, signal
moves, replace = iter(range(9999)), pathlib.Path.replace
def move(self, target):
    if next(moves) == {move}:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = move
"""


def link_code(root: Path, folder: Path) -> None:
    """Make `folder` a checkout by links to the code at `root`."""
    for name in ("lesionpipe", "stages"):
        (folder / name).symlink_to(root / name)


def killed_at_move(move: int) -> str:
    """Code to run before a stage: kill -9 just before its move number `move` of a file into place, counted from 0."""
    return KILL_AT_MOVE.format(move=move)


def run_stage(folder: Path, *words: str, before: str = "") -> subprocess.CompletedProcess:
    """Run a stage in the checkout `folder`.

    Args:
        words: its name and arguments, as in "preprocess", "01".
        before: code that its process runs first.
    """
    code = before + RUN_MODULE.format(arguments=list(words[1:]), module=f"stages.{words[0]}")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LESIONPIPE_SCRATCH": str(folder / "scratch")}
    command = [sys.executable, "-c", code]  # with -c, as with -m, the working folder comes first on sys.path
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
