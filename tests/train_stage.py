"""Runs the stage `train` for tests: in this process, or as DVC does."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_set import ROOT, write_toy_set

from lesionpipe.core.files import SCRATCH_VARIABLE
from lesionpipe.params import Params
from lesionpipe.train.build import build_training
from lesionpipe.train.history import History
from lesionpipe.train.loop import Training, train_detector
from lesionpipe.train.processes import training_processes

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def check_gradients_of_two_processes(folder: Path, timeout: int) -> None:
    """One training step on the toy set in `folder`, in one process and in two: the same gradients and losses."""
    runs = []
    for number in (1, 2):
        gradients = folder / f"gradients{number}.pt"
        command = [sys.executable, str(ROOT / "tests/gradients_job.py"), str(number), str(gradients)]
        done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout)
        assert done.returncode == 0, done.stderr
        shutil.rmtree(folder / "scratch")
        runs.append((torch.load(gradients, weights_only=True), json.loads(done.stdout.splitlines()[-1])))
    (one, row), (two, other) = runs
    for name, value in one.items():  # sums over 50,000 pixels in another order
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-3 * float(value.abs().max()), msg=name)
    assert other[0] == pytest.approx(row[0], rel=1e-4)


def training_of(params: Params) -> Training:
    """What the stage would train."""
    return build_training(
        params.dataset.parts, params.lesions.noisy, params.preprocess, params.network, params.train, params.runtime
    )


def train(folder: Path, monkeypatch, **changes) -> tuple[Training, History]:
    """Train on the toy set in this process."""
    params = write_toy_set(folder, **changes)
    monkeypatch.chdir(folder)
    monkeypatch.delenv(SCRATCH_VARIABLE, raising=False)
    training = training_of(params)
    with training_processes(training.hardware, training.state_folder) as fabric:
        return training, train_detector(fabric, training)


def start_stage(folder: Path, log: Path, **variables: str) -> subprocess.Popen:
    """Start the stage in a folder, with its own process group; both its streams go to `log`."""
    with log.open("w") as handle:
        return subprocess.Popen(
            [sys.executable, "-u", "-m", "stages.train"],
            cwd=folder,
            env=ENVIRONMENT | variables,
            stdout=handle,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_for(log: Path, text: str, process: subprocess.Popen) -> None:
    """Until the log holds `text`."""
    deadline = time.monotonic() + 90
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def send_to_group(process: subprocess.Popen, number: signal.Signals) -> None:
    """As a terminal does on Ctrl-C, which all processes of a command hear."""
    os.killpg(process.pid, number)
