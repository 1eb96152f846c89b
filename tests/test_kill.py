"""Every data stage, killed at each move into place (kill -9), then run again: the bytes of an undisturbed run."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killing import KILL_AT_MOVE
from ruamel.yaml import YAML

STAGES = (("download", "01"), ("annotations",), ("lesions",), ("preprocess", "01"), ("masks", "01"), ("anchors",))
TINY = {
    "dataset": {"parts": ["01"]},
    "phantom": {"patients_per_part": 3, "key_slices_per_patient": 1, "image_size": 64},
    "preprocess": {"image_size": 64},
    "anchors": {"use": "default", "generations": 3},
    "runtime": {"workers": 1},
}


def run(folder: Path, root: Path, stage: tuple[str, ...], move: int = -1) -> int:
    """Exit code of a stage in `folder`, killed just before its move number `move` (-1: never)."""
    script = str(root / "stages" / f"{stage[0]}.py")
    program = KILL_AT_MOVE.format(move=move, arguments=[script, *stage[1:]], script=script)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LESIONPIPE_SCRATCH": str(folder / "scratch")}
    command = [sys.executable, "-P", "-c", program]  # -P: the folder's lesionpipe/ isn't the package
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def contents(folder: Path) -> dict[str, bytes]:
    """All that a stage may leave: data/ and metrics/, temporary files included."""
    files = (p for top in ("data", "metrics") for p in (folder / top).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


@pytest.fixture(scope="module")
def before(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A working folder as it is before each stage, and after all of them under the name `end`."""
    base = tmp_path_factory.mktemp("kill")
    yaml = YAML()
    params = yaml.load((root / "params.yaml").read_text())
    for section, values in TINY.items():
        params[section].update(values)
    current = base / "0"
    (current / "lesionpipe/deeplesion").mkdir(parents=True)
    shutil.copy(root / params["dataset"]["listing"], current / params["dataset"]["listing"])
    with (current / "params.yaml").open("w") as handle:
        yaml.dump(params, handle)
    folders = {}
    for i, stage in enumerate(STAGES, start=1):
        folders[stage[0]] = current
        following = base / str(i)
        shutil.copytree(current, following)
        run(following, root, stage)
        current = following
    return {**folders, "end": current}


@pytest.mark.parametrize("number", range(len(STAGES)), ids=[stage[0] for stage in STAGES])
def test_a_killed_stage_gives_the_same_bytes_when_it_is_run_again(before, root, tmp_path, number):
    stage = STAGES[number]
    after = before[STAGES[number + 1][0]] if number + 1 < len(STAGES) else before["end"]
    for move in itertools.count():
        folder = tmp_path / str(move)
        shutil.copytree(before[stage[0]], folder)
        if run(folder, root, stage, move) == 0:
            break
        run(folder, root, stage)
        assert contents(folder) == contents(after), f"killed at move {move}"
    assert move > 0  # at least one move was there to be killed at
