"""The state of an interrupted training, and the lock that keeps a second process from it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from imports import closure, holds_code, is_neutral
from toy_set import write_toy_set
from train_stage import ENVIRONMENT, start_stage

from lesionpipe.core.errors import UserError, run
from lesionpipe.core.files import SCRATCH_VARIABLE
from lesionpipe.core.tensor_file import save_tensors
from lesionpipe.train import state

EMPTY = {"rows": [], "times": [], "best": {}, "detector": {}, "optimizers": []}
HOLD = """
import sys, time
from pathlib import Path
from lesionpipe.train.state import state_lock
with state_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_scratch_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv(SCRATCH_VARIABLE, "/somewhere")
    assert state.state_folder("abc") == Path("/somewhere/train/abc")
    monkeypatch.delenv(SCRATCH_VARIABLE)
    assert state.state_folder("abc") == Path("scratch/train/abc")


@pytest.mark.parametrize("content", [b"PK\3\4 not a state", b"garbage", b"", None], ids=str)
def test_a_damaged_state_is_reported_with_its_path(tmp_path, content):
    state.save_state(tmp_path, {**EMPTY, "best": {"weight": torch.zeros(100)}})
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)  # cut short, or something else
    with pytest.raises(UserError, match=r"state\.pt: unreadable .* delete it"):
        state.load_state(tmp_path)
    assert state.load_state(tmp_path / "none") is None


@pytest.mark.parametrize("content", [{"rows": []}, [1], {**EMPTY, "rows": 3}, {**EMPTY, "optimizers": None}], ids=str)
def test_a_state_that_lacks_a_part_is_reported_with_its_path(tmp_path, content):
    save_tensors(tmp_path / "state.pt", content)
    with pytest.raises(UserError, match=r"state\.pt: '\w+' is missing or of the wrong type; delete the file"):
        state.load_state(tmp_path)


def test_a_state_that_finds_no_room_is_reported_in_one_line(small_disk):
    state.save_state(small_disk, EMPTY)
    with pytest.raises(SystemExit, match=r"no space left on the disk while writing .*state\.pt"):
        run(lambda: state.save_state(small_disk, {**EMPTY, "best": {"weight": torch.zeros(1 << 20)}}))
    assert state.load_state(small_disk) == EMPTY


def holder_of(folder: Path) -> subprocess.Popen:
    """A process that holds the lock."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, folder], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    return holder


def test_a_lock_leaves_nothing_behind_but_a_state(tmp_path):
    folder = tmp_path / "train" / "abc"
    with state.state_lock(folder):
        assert folder.is_dir()
    assert list(folder.parent.iterdir()) == []
    with state.state_lock(folder):
        state.save_state(folder, EMPTY)
    assert [p.name for p in folder.iterdir()] == ["state.pt"]


def test_who_does_not_wait_reads_who_holds_the_run(tmp_path):
    holder = holder_of(tmp_path / "abc")
    words = rf"abc: process {holder.pid} on \S+, in {Path.cwd()}, trains the same run; wait until it has ended"
    with pytest.raises(UserError, match=words), state.state_lock(tmp_path / "abc", wait=False):
        pass
    holder.kill()
    holder.wait()
    with state.state_lock(tmp_path / "abc", wait=False):  # a killed process holds nothing
        pass


def test_a_state_is_kept_for_those_who_wait_and_are_alive(tmp_path):
    folder = tmp_path / "abc"
    state.save_state(folder, EMPTY)
    host = os.uname().nodename
    (tmp_path / f"abc.waiting.{host}.{os.getpid()}").touch()
    state.clear_state(folder)
    assert state.load_state(folder) == EMPTY
    (tmp_path / f"abc.waiting.{host}.{os.getpid()}").unlink()
    (tmp_path / f"abc.waiting.{host}.{2**22 + 1}").touch()  # above the highest process number
    state.clear_state(folder)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_with_one_fingerprint_both_end_with_the_same_bytes(tmp_path):
    """One of them waits and takes the other's result over, without training itself."""
    running, logs = [], []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        write_toy_set(folder, train={"epochs": 40})
        running.append(
            start_stage(folder, tmp_path / f"{folder.name}.log", **{SCRATCH_VARIABLE: str(tmp_path / "scratch")})
        )
        logs.append(tmp_path / f"{folder.name}.log")
    assert [process.wait() for process in running] == [0, 0], [log.read_text() for log in logs]
    lines = [log.read_text().splitlines() for log in logs]
    second = int(lines[1][0].startswith("waiting"))
    holder = (
        rf"waiting: process {running[1 - second].pid} on \S+, in {tmp_path / 'ab'[1 - second]}, trains the same run; .*"
    )
    assert re.fullmatch(holder, lines[second][0])
    assert lines[second][1] == lines[1 - second][0] == "train.precision: 32"
    assert lines[second][2].startswith("resuming after epoch 40 from ") and len(lines[second]) == 3
    assert len(lines[1 - second]) == 41
    for name in ("data/model.safetensors", "metrics/train.csv", "metrics/train.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert list((tmp_path / "scratch/train").iterdir()) == []


def test_the_fingerprint_and_dvc_agree_on_the_code_that_changes_no_result(root):
    loaded = {path for path in closure(root / "stages/train.py") if holds_code(path)}
    assert len(loaded) > 20
    for path in loaded:
        module = ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
        assert state.is_neutral(module) == is_neutral(path), module
