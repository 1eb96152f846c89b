"""Training: schedule, history, repeatability, resume after a kill, several processes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_set import ROOT, needs_compiler, toy_params, write_toy_set

from lesionpipe.core.errors import UserError, run
from lesionpipe.detectors import backbones as backbone
from lesionpipe.detectors.retinanet.network import build_network
from lesionpipe.params import Params, load_params
from lesionpipe.train import schedule, state
from lesionpipe.train.module import DetectorTraining
from lesionpipe.train.train import Inputs, _input_files, _settings, train_detector

COLUMNS = [
    "epoch",
    "loss_total",
    "loss_classification",
    "loss_box",
    "loss_mask",
    "val_map",
    "learning_rate",
    "images_per_s",
    "seconds",
]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def settings(**changes):
    return Params.model_validate(toy_params(train=changes)).train


def train(folder: Path, monkeypatch, **changes):
    """Train on the toy set in this process."""
    params = write_toy_set(folder, **changes)
    monkeypatch.chdir(folder)
    monkeypatch.delenv(state.VARIABLE, raising=False)
    return train_detector(
        Inputs(params.dataset.parts),
        params.preprocess,
        params.network,
        params.train,
        params.runtime,
        Path("metrics/train.csv"),
    )


def stage(folder: Path, log: Path) -> subprocess.Popen:
    """Start the stage `train` in a folder."""
    with log.open("w") as handle:
        return subprocess.Popen(
            [sys.executable, "-u", ROOT / "stages/train.py"],
            cwd=folder,
            env=ENVIRONMENT,
            stdout=handle,
            stderr=subprocess.STDOUT,
        )


def test_plateau_drops_the_rate_after_two_epochs_without_a_better_map():
    plateau = settings(schedule="plateau", learning_rate=1e-4, lr_patience=2, lr_factor=0.1, warmup_epochs=0.0)
    for scores, expected in [
        ([], 1e-4),
        ([0.1, 0.2, 0.2], 1e-4),  # equal is not better
        ([0.1, 0.2, 0.2, 0.1], 1e-5),
        ([0.1, 0.2, 0.2, 0.1, 0.3, 0.3], 1e-5),
        ([0.1, 0.2, 0.2, 0.1, 0.1, 0.1], 1e-6),
    ]:
        assert schedule.rate(plateau, scores, len(scores)) == pytest.approx(expected)


def test_plateau_stops_after_four_epochs_without_a_better_map():
    plateau = settings(schedule="plateau", epochs=50, early_stopping_patience=4)
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


def test_the_plateau_schedule_drops_stops_and_keeps_the_best_epoch(tmp_path, monkeypatch):
    scores, seen = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.2]), []

    def validation_map(module):
        seen.append({name: value.clone() for name, value in module.network.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(DetectorTraining, "validation_map", validation_map)
    plateau = {
        "schedule": "plateau",
        "warmup_epochs": 0.0,
        "epochs": 10,
        "lr_patience": 2,
        "early_stopping_patience": 4,
    }
    trained = train(tmp_path, monkeypatch, train={**plateau, "learning_rate": 1e-3, "lr_factor": 0.1})
    assert trained.history.table()["learning_rate"].tolist() == pytest.approx([1e-3] * 4 + [1e-4] * 2)
    assert trained.summary() == {"best_epoch": 2, "val_map": 0.3, "epochs": 6}
    for weights in (trained.history.best, trained.network.state_dict()):
        assert [all(torch.equal(weights[name], value) for name, value in epoch.items()) for epoch in seen] == [
            False,
            True,
            False,
            False,
            False,
            False,
        ]


def test_gradients_are_clipped_to_their_norm(monkeypatch):
    for limit, expected in ((0.5, 0.5), (None, 5000)):
        module = DetectorTraining(
            torch.nn.Linear(4, 4, bias=False), torch.empty(0), settings(gradient_clip_norm=limit), (0, 1)
        )
        module.network.weight.grad = torch.full((4, 4), 1250.0)
        module.on_before_optimizer_step(None)
        assert float(module.network.weight.grad.norm()) == pytest.approx(expected, rel=1e-3)


@needs_compiler
def test_a_compiled_training_gives_weights_of_the_plain_network(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "SMALL_RESIDUALS", (0, 0, 0, 0))  # less for the C++ compiler to do
    trained = train(tmp_path, monkeypatch, train={"epochs": 1, "compile": True}, network={"mask_branch": False})
    params = load_params(tmp_path / "params.yaml")
    plain = build_network(params.network, params.preprocess.slices, trained.anchors.per_cell)
    plain.load_state_dict(trained.history.best, strict=True)
    images = torch.zeros(1, params.preprocess.slices, 64, 64)
    maps, expected = trained.network.eval().attention_maps(images), plain.eval().attention_maps(images)
    assert list(maps) == ["C2", "C3", "C4"]
    for name, value in expected.items():
        torch.testing.assert_close(maps[name], value, rtol=1e-3, atol=1e-5)  # another memory format rounds otherwise


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


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"weights": "a.pth", "attention": False}},
        {"network": {"weights": "b.pth"}},
        {"preprocess": {"hu": [-1000, 1000]}},
        {"train": {"flip": 0.25}},
        {"dataset": {"parts": ["02", "01"]}},
        {"dataset": {"parts": ["01"]}},
        "data/lesions.csv",
        "data/anchors.json",
        "data/slices/02.npy",
        "data/slices/02.csv",
        "data/masks/02.npz",
        "a.pth",
    ],
    ids=str,
)
def test_one_change_of_a_setting_or_an_input_is_another_run(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    before = fingerprint_of()
    assert fingerprint_of() == before
    if isinstance(change, str):
        Path(change).write_text("changed")
    assert fingerprint_of(change if isinstance(change, dict) else {}) != before


def fingerprint_of(changes: dict | None = None) -> str:
    """Of a run on two parts with weights of its own; input files that are missing are made, empty."""
    sections = {"dataset": {"parts": ["01", "02"]}, "network": {"weights": "a.pth"}} | (changes or {})
    params = Params.model_validate(toy_params(**sections))
    inputs = Inputs(params.dataset.parts)
    files = _input_files(inputs, params.network)
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return state.fingerprint(_settings(inputs, params.preprocess, params.network, params.train), files)


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


@pytest.mark.parametrize("content", [b"PK\3\4 not a state", b"garbage", b"", None], ids=str)
def test_a_damaged_state_is_told_with_its_path(tmp_path, content):
    state.save_state(tmp_path, {"best": torch.zeros(100)})
    path = tmp_path / "state.pt"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)  # cut short, or something else
    with pytest.raises(UserError, match=r"state\.pt: unreadable .* delete it"):
        state.load_state(tmp_path)
    assert state.load_state(tmp_path / "none") is None


def test_a_state_that_finds_no_room_is_told_in_one_line(small_disk):
    state.save_state(small_disk, {"epoch": 1})
    with pytest.raises(SystemExit, match=r"no space left on the disk while writing .*state\.pt"):
        run(lambda: state.save_state(small_disk, {"best": torch.zeros(1 << 20)}))
    assert state.load_state(small_disk) == {"epoch": 1}


def test_a_loss_that_is_not_finite_stops_with_what_to_change(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"not finite in epoch \d, step \d .*lower train\.learning_rate \(now 1e\+30\)"):
        train(tmp_path, monkeypatch, train={"learning_rate": 1e30, "gradient_clip_norm": None})


@pytest.mark.parametrize(
    ("processes", "box", "words"),
    [
        (1, math.nan, r"step 8 \(total 1, box nan\)"),
        (2, math.nan, r"step 8 \(here: total 1, box nan\)"),
        (2, 0.5, r"step 8 \(here: total 1, box 0\.5; not finite in another process\)"),
    ],
)
def test_losses_that_are_not_finite_are_told_with_their_process(processes, box, words):
    module = DetectorTraining(torch.nn.Linear(1, 1), torch.empty(0), settings(), (0, 1))
    strategy = SimpleNamespace(reduce=lambda value, reduce_op: value * math.nan)
    module.trainer = SimpleNamespace(strategy=strategy, world_size=processes)
    with pytest.raises(UserError, match=words):
        module.require_finite({"total": torch.tensor(1.0), "box": torch.tensor(box)}, 7)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"runtime": {"devices": 3}}, r"train\.batch = 4 can't be shared out evenly over 3 processes"),
        ({"runtime": {"device": "cuda", "devices": 64}}, r"runtime\.devices = 64"),
        ({"network": {"levels": "P3-P7"}}, r"anchors\.json: anchors of strides .*run `dvc repro anchors`"),
        ({"preprocess": {"image_size": 96}}, r"slices of shape \(3, 64, 64\)"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, monkeypatch, changes, words):
    with pytest.raises(UserError, match=words):
        train(tmp_path, monkeypatch, **changes)


def test_two_processes_give_the_gradients_of_one_with_the_doubled_batch(tmp_path):
    """The batch holds all 12 slices of the toy set, so both see the same images: 12, or 6 and 6."""
    write_toy_set(tmp_path, train={"epochs": 1, "batch_size": 12, "gradient_clip_norm": None})
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
