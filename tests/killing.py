"""A program that runs a stage and kills it (kill -9) just before one of its moves into place."""

KILL_AT_MOVE = """
import os, pathlib, runpy, signal, sys
moves, replace = iter(range(99)), pathlib.Path.replace
def move(self, target):
    if next(moves) == {move}:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
pathlib.Path.replace = move
sys.argv = {arguments!r}
runpy.run_path({script!r}, run_name="__main__")
"""
