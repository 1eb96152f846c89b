"""Training: schedule, history, repeatability, resume after a kill, several processes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toy_set import ROOT, toy_params, write_toy_set

from lesionpipe.errors import UserError
from lesionpipe.params import Params
from lesionpipe.training import schedule, state
from lesionpipe.training.machine import machine_of
from lesionpipe.training.train import Inputs, train_detector

COLUMNS = ["epoch", "loss_total", "loss_classification", "loss_box", "loss_mask", "val_map", "learning_rate",
           "images_per_s", "seconds"]  # fmt: skip
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def settings(**changes):
    return Params.model_validate(toy_params(train=changes)).train


def train(folder: Path, monkeypatch, **changes):
    """Train on the toy set in this process."""
    params = write_toy_set(folder, **changes)
    monkeypatch.chdir(folder)
    monkeypatch.delenv(state.VARIABLE, raising=False)
    return train_detector(Inputs(params.dataset.parts), params.preprocess, params.network, params.train,
                          params.runtime, Path("metrics/train.csv"))  # fmt: skip


def stage(folder: Path, log: Path) -> subprocess.Popen:
    """Start the stage `train` in a folder."""
    with log.open("w") as handle:
        return subprocess.Popen([sys.executable, "-u", ROOT / "stages/train.py"], cwd=folder, env=ENVIRONMENT,
                                stdout=handle, stderr=subprocess.STDOUT)  # fmt: skip


def test_plateau_drops_the_rate_after_two_epochs_without_a_better_map():
    plateau = settings(schedule="plateau", learning_rate=1e-4, drop_after=2, drop_factor=0.1, warmup_epochs=0.0)
    for scores, expected in [
        ([], 1e-4),
        ([0.1, 0.2, 0.2], 1e-4),  # equal is not better
        ([0.1, 0.2, 0.2, 0.1], 1e-5),
        ([0.1, 0.2, 0.2, 0.1, 0.3, 0.3], 1e-5),
        ([0.1, 0.2, 0.2, 0.1, 0.1, 0.1], 1e-6),
    ]:
        assert schedule.rate(plateau, scores, len(scores)) == pytest.approx(expected)


def test_plateau_stops_after_four_epochs_without_a_better_map():
    plateau = settings(schedule="plateau", epochs=50, stop_after=4)
    assert not schedule.finished(plateau, [0.1, 0.3, 0.3, 0.2, 0.1])
    assert schedule.finished(plateau, [0.1, 0.3, 0.3, 0.2, 0.1, 0.2])
    assert schedule.finished(plateau.model_copy(update={"epochs": 3}), [0.1, 0.2, 0.3])


def test_cosine_rises_then_falls_to_nothing_and_never_stops_early():
    cosine = settings(schedule="cosine", learning_rate=1e-3, epochs=5, warmup_epochs=1.0)
    rates = [schedule.rate(cosine, [], passed) for passed in (0.25, 1, 2, 3, 5)]
    expected = [0.00025, 0.001, 0.001 * (1 + math.cos(math.pi / 4)) / 2, 0.0005, 0]
    assert rates == pytest.approx(expected)
    assert not schedule.finished(cosine, [0.5, 0.1, 0.1, 0.1])


def test_best_epoch_is_the_first_of_equals():
    assert schedule.best_epoch([0.1, 0.4, 0.2, 0.4]) == 1


def test_history_has_a_row_per_epoch_and_the_best_weights_come_back(tmp_path, monkeypatch, capsys):
    trained = train(tmp_path, monkeypatch, train={"epochs": 3})
    table = trained.history.table()
    assert list(table.columns) == COLUMNS and table["epoch"].tolist() == [1, 2, 3]
    assert table["loss_mask"].is_monotonic_decreasing
    told = table["loss_classification"] + table["loss_box"] + table["loss_mask"]
    assert table["loss_total"].tolist() == pytest.approx(told.tolist(), rel=1e-5)
    best = trained.summary()
    assert best["val_map"] == pytest.approx(table["val_map"].max(), abs=1e-6) and best["epochs"] == 3
    weights = trained.network.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in trained.history.best.items())
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [f"epoch {i}/3" for i in (1, 2, 3)]
    assert said.err == ""
    assert {p.name for p in tmp_path.iterdir()} == {"params.yaml", "data", "metrics", "scratch"}  # no lightning_logs


def test_same_seed_same_metrics_whatever_the_loaders(tmp_path, monkeypatch):
    tables = []
    for name, seed, workers in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        (tmp_path / name).mkdir()
        trained = train(tmp_path / name, monkeypatch, train={"epochs": 2, "seed": seed}, runtime={"workers": workers})
        tables.append(trained.history.table().drop(columns=["images_per_s", "seconds"]))
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
        write_toy_set(folder, train={"epochs": 6, "precision": "bf16"})
    running = stage(undisturbed, tmp_path / "undisturbed.log")
    victim = stage(killed, tmp_path / "killed.log")
    wait_for(tmp_path / "killed.log", "epoch 2/6", victim)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL and running.wait() == 0
    assert not (killed / "data/model.pt").exists()
    assert len(list((killed / "scratch/train").glob("*/state.pt"))) == 1
    assert stage(killed, tmp_path / "resumed.log").wait() == 0
    log = (tmp_path / "resumed.log").read_text()
    assert log.startswith("resuming after epoch ") and "epoch 6/6" in log and "epoch 2/6" not in log
    assert (killed / "data/model.pt").read_bytes() == (undisturbed / "data/model.pt").read_bytes()
    assert (killed / "metrics/train.json").read_text() == (undisturbed / "metrics/train.json").read_text()
    assert list((killed / "scratch/train").iterdir()) == []  # a finished run leaves no state


def wait_for(log: Path, text: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)


def test_state_of_other_parameters_or_inputs_is_not_taken_up(tmp_path):
    data = tmp_path / "lesions.csv"
    data.write_text("one")
    first = state.fingerprint({"epochs": 4}, [data])
    assert state.fingerprint({"epochs": 4}, [data]) == first
    assert state.fingerprint({"epochs": 5}, [data]) != first
    data.write_text("two")
    assert state.fingerprint({"epochs": 4}, [data]) != first


def test_a_large_input_is_known_by_size_and_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "SMALL", 1 << 20)
    shard = tmp_path / "01.npy"
    shard.write_bytes(bytes(3 << 20))
    first = state.file_digest(shard)
    assert first == state.file_digest(shard)
    shard.write_bytes(bytes((3 << 20) + 1))
    assert state.file_digest(shard) != first
    shard.write_bytes(bytes((3 << 20) - 1) + b"\1")
    assert state.file_digest(shard) != first


def test_scratch_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv(state.VARIABLE, "/somewhere")
    assert state.scratch_folder("abc") == Path("/somewhere/train/abc")
    monkeypatch.delenv(state.VARIABLE)
    assert state.scratch_folder("abc") == Path("scratch/train/abc")


def test_a_damaged_state_is_told_with_its_path(tmp_path):
    (tmp_path / "state.pt").write_bytes(b"PK\3\4 not a state")
    with pytest.raises(UserError, match=r"state\.pt: unreadable .* delete it"):
        state.load_state(tmp_path)
    assert state.load_state(tmp_path / "none") is None


def test_a_loss_that_is_not_finite_stops_with_what_to_change(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"not finite in epoch \d, step \d .*lower train\.learning_rate \(now 1e\+30\)"):
        train(tmp_path, monkeypatch, train={"learning_rate": 1e30, "clip_norm": None})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"runtime": {"devices": 3}}, r"train\.batch = 4 can't be shared out evenly over 3 processes"),
        ({"runtime": {"device": "cuda", "devices": 64}}, r"runtime\.devices = 64"),
        ({"network": {"levels": "P3-P7"}}, r"anchors\.json: anchors of strides .*run `dvc repro anchors`"),
        ({"preprocess": {"size": 96}}, r"slices of shape \(3, 64, 64\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, monkeypatch, changes, words):
    with pytest.raises(UserError, match=words):
        train(tmp_path, monkeypatch, **changes)


def test_loader_processes_on_a_cpu_leave_the_cores_to_the_network():
    runtime = Params.model_validate(toy_params(runtime={"workers": 0, "device": "cpu"})).runtime
    assert machine_of(runtime).workers == 1


def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(tmp_path):
    """The batch holds all 12 slices of the toy set, so both see the same images: 12, or 6 and 6."""
    write_toy_set(tmp_path, train={"epochs": 1, "batch": 12, "clip_norm": None})
    runs = []
    for processes in (1, 2):
        gradients = tmp_path / f"gradients{processes}.pt"
        command = [sys.executable, str(ROOT / "tests/fit_job.py"), str(processes), str(gradients)]
        told = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
        assert told.returncode == 0, told.stderr
        runs.append((torch.load(gradients, weights_only=True), json.loads(told.stdout.splitlines()[-1])))
    (one, row), (two, other) = runs
    for name, value in one.items():  # sums over 50,000 pixels in another order
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-3 * float(value.abs().max()), msg=name)
    assert other[0] == pytest.approx(row[0], rel=1e-4)
