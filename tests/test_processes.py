"""Several processes that train together: one batch, one result, one message, one checkout."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from toy_set import ROOT, write_toy_set
from train_stage import ENVIRONMENT, check_gradients_of_two_processes, send_to_group, start_stage, training_of, wait_for

from lesionpipe.core.errors import UserError
from lesionpipe.train import loop, processes

TWO = {"devices": 2}
BREAK_SECOND = """
import torch
from lesionpipe.core.errors import run
from lesionpipe.train import loop
from stages.train import main
plain = loop.batch_losses
def broken(model, batch, settings):
    losses = plain(model, batch, settings)
    if torch.distributed.get_rank() == 1:
        losses["total"] = losses["total"] * float("nan")
    return losses
loop.batch_losses = broken
if __name__ == "__main__":
    run(main)
"""


def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(tmp_path):
    """The batch holds all 12 slices of the toy set, so both see the same images: 12, or 6 and 6."""
    write_toy_set(tmp_path, train={"epochs": 1, "batch_size": 12, "gradient_clip_norm": None})
    check_gradients_of_two_processes(tmp_path, timeout=120)


def test_counts_of_a_single_process_are_at_least_one():
    assert processes.share_counts(torch.tensor([0.0, 3.0])).tolist() == [1, 3]
    assert processes.gather_lists([1, 2]) == [1, 2]


@pytest.mark.parametrize(
    ("number", "box", "words"),
    [
        (1, math.nan, r"step 8 \(total 1, box nan\)"),
        (2, math.nan, r"step 8 \(in the first process: total 1, box nan\)"),
        (2, 0.5, r"step 8 \(in the first process: total 1, box 0\.5; not finite in another process\)"),
    ],
)
def test_losses_that_are_not_finite_are_reported_with_their_process(tmp_path, monkeypatch, number, box, words):
    monkeypatch.chdir(tmp_path)
    settings = training_of(write_toy_set(tmp_path)).settings
    fabric = SimpleNamespace(
        all_reduce=lambda value, reduce_op: value * math.nan, world_size=number, is_global_zero=True
    )
    losses = {"total": torch.tensor(1.0), "box": torch.tensor(box)}
    with pytest.raises(UserError, match=words):
        loop.require_finite(fabric, losses, settings, epoch=0, step=7)


def test_a_loss_that_is_not_finite_in_one_process_stops_all_with_one_line(tmp_path):
    write_toy_set(tmp_path, runtime=TWO)
    (tmp_path / "broken.py").write_text(BREAK_SECOND)
    command = [sys.executable, "-m", "broken"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    assert re.match(r"error: training: the loss is not finite in epoch 1, step 1 .*in another process", done.stderr)


@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_ends_all_processes_with_one_line_and_keeps_the_state(tmp_path, devices):
    write_toy_set(tmp_path, train={"epochs": 500}, runtime={"devices": devices})
    running = start_stage(tmp_path, tmp_path / "log")
    wait_for(tmp_path / "log", "epoch 2/500", running)
    send_to_group(running, signal.SIGINT)
    assert running.wait(timeout=30) == 130
    others = [line for line in (tmp_path / "log").read_text().splitlines() if not line.startswith("epoch ")]
    assert others[0] == "train.precision: 32"  # printed once, by the first process
    assert len(others) == 2 and others[1].startswith("interrupted:"), others
    assert len(list((tmp_path / "scratch/train").glob("*/state.pt"))) == 1


def test_a_killed_process_leaves_none_of_the_others_behind(tmp_path):
    """Neither the second process, nor loader processes and their fork servers."""
    write_toy_set(tmp_path, train={"epochs": 500}, runtime=TWO)
    running = start_stage(tmp_path, tmp_path / "log")
    wait_for(tmp_path / "log", "epoch 2/500", running)
    running.kill()
    running.wait()
    deadline = time.monotonic() + 60
    while group_lives(running.pid):
        assert time.monotonic() < deadline
        time.sleep(0.5)


def group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_all_processes_run_the_code_of_the_working_folder(tmp_path):
    """Launched processes and loader workers too, although another lesionpipe is installed."""
    for name in ("lesionpipe", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    mark = "\nimport os\nfrom pathlib import Path\nPath(f'marks-{os.getpid()}').touch()\n"
    for name in ("train/loop.py", "train/dataset.py"):
        with (tmp_path / "lesionpipe" / name).open("a") as handle:
            handle.write(mark)
    write_toy_set(tmp_path, train={"epochs": 1}, runtime=TWO)
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "stages.train"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("marks-*"))) >= 4  # two processes, and a loader of each from its fork server
    assert (tmp_path / "data/model.safetensors").exists()


def test_torchrun_starts_the_processes(tmp_path):
    write_toy_set(tmp_path, train={"epochs": 1}, runtime=TWO)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "stages.train",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["train.precision", "epoch 1/1"]
    assert json.loads((tmp_path / "metrics/environment.json").read_text())["processes"] == 2
