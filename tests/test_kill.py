"""Every data stage, killed at each move into place (kill -9), then run again: the bytes of an undisturbed run."""

import itertools
import shutil
import signal
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from stage_runs import killed_at_move, link_code, run_stage

STAGES = (("phantom",), ("download", "01"), ("lesions",), ("preprocess", "01"), ("masks", "01"), ("anchors",))
TINY = {
    "dataset": {"parts": ["01"]},
    "phantom": {"patients_per_part": 3, "extra_test_patients": 0, "key_slices_per_patient": 1, "image_size": 64},
    "preprocess": {"image_size": 64},
    "anchors": {"use": "default", "generations": 3},
    "runtime": {"workers": 1},
}


def run(folder: Path, stage: tuple[str, ...], move: int = -1) -> int:
    """Exit code of a stage in `folder`, killed just before its move number `move` (-1: never)."""
    done = run_stage(folder, *stage, before=killed_at_move(move))
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def contents(folder: Path) -> dict[str, bytes]:
    """All that a stage may leave: data/ and metrics/, temporary files included; but no measured times."""
    files = (p for top in ("data", "metrics") for p in (folder / top).rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if "data/times" not in str(p)}


@pytest.fixture(scope="module")
def before(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkout as it is before each stage, and after all of them under the name `end`."""
    base = tmp_path_factory.mktemp("kill")
    yaml = YAML()
    params = yaml.load((root / "params.yaml").read_text())
    for section, values in TINY.items():
        params[section].update(values)
    current = base / "0"
    current.mkdir()
    link_code(root, current)
    with (current / "params.yaml").open("w") as handle:
        yaml.dump(params, handle)
    folders = {}
    for i, stage in enumerate(STAGES, start=1):
        folders[stage[0]] = current
        current = shutil.copytree(current, base / str(i), symlinks=True)
        assert run(current, stage) == 0
    return {**folders, "end": current}


@pytest.mark.parametrize("number", range(len(STAGES)), ids=[stage[0] for stage in STAGES])
def test_a_killed_stage_gives_the_same_bytes_when_it_is_run_again(before, tmp_path, number):
    stage = STAGES[number]
    after = before[STAGES[number + 1][0]] if number + 1 < len(STAGES) else before["end"]
    for move in itertools.count():
        folder = shutil.copytree(before[stage[0]], tmp_path / str(move), symlinks=True)
        if run(folder, stage, move) == 0:
            break
        assert run(folder, stage) == 0
        assert contents(folder) == contents(after), f"killed at move {move}"
    assert move > 0  # at least one move was there to be killed at
