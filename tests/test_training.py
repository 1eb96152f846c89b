"""Training: history, repeatability, resume after a kill, what is refused."""

import json
import signal
from pathlib import Path

import pandas as pd
import pytest
import torch
from toy_set import needs_compiler, toy_params, write_toy_set
from train_stage import start_stage, train, training_of, wait_for

from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_json
from lesionpipe.detectors import backbones
from lesionpipe.detectors.build import build_detector
from lesionpipe.params import Params, load_params
from lesionpipe.train import loop, state
from lesionpipe.train.build import input_files, read_anchors
from lesionpipe.train.validation import autocast

COLUMNS = ["epoch", "loss_total", "loss_classification", "loss_box", "loss_mask", "val_map", "learning_rate"]


def test_history_has_a_row_per_epoch_and_the_best_weights_come_back(tmp_path, monkeypatch, capsys):
    training, history = train(tmp_path, monkeypatch, train={"epochs": 3})
    table = history.table()
    assert list(table.columns) == COLUMNS and table["epoch"].tolist() == [1, 2, 3]
    assert table["loss_mask"].is_monotonic_decreasing
    parts = table["loss_classification"] + table["loss_box"] + table["loss_mask"]
    assert table["loss_total"].tolist() == pytest.approx(parts.tolist(), rel=1e-5)
    best = history.summary()
    assert best["val_map"] == pytest.approx(table["val_map"].max(), abs=1e-6) and best["epochs"] == 3
    weights = training.detector.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in history.best.items())
    printed = capsys.readouterr()
    assert [line.split(":")[0] for line in printed.out.splitlines()] == [f"epoch {i}/3" for i in (1, 2, 3)]
    assert printed.err == ""
    assert {p.name for p in tmp_path.iterdir()} == {"params.yaml", "data", "metrics", "scratch"}  # no lightning_logs


def test_the_loss_columns_are_the_detectors(tmp_path, monkeypatch):
    _, history = train(tmp_path, monkeypatch, train={"epochs": 1}, network={"mask_branch": False})
    assert list(history.table().columns) == [name for name in COLUMNS if name != "loss_mask"]


def test_the_total_weights_the_mask_loss(tmp_path, monkeypatch):
    _, history = train(tmp_path, monkeypatch, train={"epochs": 1, "mask_loss_weight": 0.25})
    row = history.rows[0]
    expected = row["loss_classification"] + row["loss_box"] + 0.25 * row["loss_mask"]
    assert row["loss_total"] == pytest.approx(expected, rel=1e-5)


def test_times_stand_apart_from_the_results_of_a_run(tmp_path, monkeypatch):
    train(tmp_path, monkeypatch, train={"epochs": 2})
    assert pd.read_csv(tmp_path / "metrics/train.csv").columns.tolist() == COLUMNS
    times = pd.read_csv(tmp_path / "data/times/train.csv")
    assert times.columns.tolist() == ["epoch", "images_per_s", "seconds"] and times["epoch"].tolist() == [1, 2]


def test_the_plateau_schedule_drops_stops_and_keeps_the_best_epoch(tmp_path, monkeypatch):
    scores, seen = iter([0.1, 0.3, 0.2, 0.2, 0.2, 0.2]), []

    def validation_map(detector, *_):
        seen.append({name: value.clone() for name, value in detector.state_dict().items()})
        return next(scores)

    monkeypatch.setattr(loop, "validation_map", validation_map)
    plateau = {"schedule": "plateau", "warmup_epochs": 0.0, "epochs": 10}
    patience = {"lr_patience": 2, "early_stopping_patience": 4, "learning_rate": 1e-3, "lr_factor": 0.1}
    training, history = train(tmp_path, monkeypatch, train=plateau | patience)
    assert history.table()["learning_rate"].tolist() == pytest.approx([1e-3] * 4 + [1e-4] * 2)
    assert history.summary() == {"best_epoch": 2, "val_map": 0.3, "epochs": 6}
    for weights in (history.best, training.detector.state_dict()):
        same = [all(torch.equal(weights[name], value) for name, value in epoch.items()) for epoch in seen]
        assert same == [False, True, False, False, False, False]


def test_gradients_are_clipped_to_their_norm():
    for limit, expected in ((0.5, 0.5), (None, 5000)):
        layer = torch.nn.Linear(4, 4, bias=False)
        layer.weight.grad = torch.full((4, 4), 1250.0)
        loop.clip_gradients(layer, limit)
        assert float(layer.weight.grad.norm()) == pytest.approx(expected, rel=1e-3)


@needs_compiler
def test_a_compiled_training_gives_weights_of_the_plain_network(tmp_path, monkeypatch):
    monkeypatch.setattr(backbones, "SMALL_RESIDUALS", (0, 0, 0, 0))  # less for the C++ compiler to do
    compiled = {"train": {"epochs": 1, "compile": True}, "network": {"mask_branch": False}}
    training, history = train(tmp_path, monkeypatch, **compiled)
    params = load_params(tmp_path / "params.yaml")
    plain = build_detector(params.network, params.preprocess, training.anchors)
    plain.load_state_dict(history.best, strict=True)
    images = torch.zeros(1, params.preprocess.slices, 64, 64)
    with torch.no_grad():
        maps, expected = (one.eval().network.forward(images) for one in (training.detector, plain))
    # another memory format rounds otherwise
    torch.testing.assert_close(maps.logits, expected.logits, rtol=1e-3, atol=1e-5)


def test_same_seed_same_metrics_whatever_the_loaders(tmp_path, monkeypatch):
    tables = []
    for name, seed, workers in (("a", 0, 1), ("b", 0, 2), ("c", 1, 1)):
        (tmp_path / name).mkdir()
        _, history = train(
            tmp_path / name, monkeypatch, train={"epochs": 2, "seed": seed}, runtime={"workers": workers}
        )
        tables.append(history.table())
    assert tables[0].equals(tables[1])
    assert not tables[0].equals(tables[2])


def test_noisy_lesions_and_their_slices_are_dropped_where_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sizes = []
    for noisy in ("keep", "drop"):
        params = write_toy_set(tmp_path, lesions={"noisy": noisy})
        table = pd.read_csv("data/lesions.csv", dtype={"part": str})
        table.assign(noisy=table["lesion"].isin([2, 14]).astype(int)).to_csv("data/lesions.csv", index=False)
        training = training_of(params)
        sizes.append((len(training.slices), len(training.validation_slices)))
    assert sizes == [(12, 5), (11, 4)]


def test_a_killed_run_resumes_and_ends_with_the_same_bytes(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
        write_toy_set(folder, train={"epochs": 6, "precision": "bf16"})
    running = start_stage(undisturbed, tmp_path / "undisturbed.log")
    victim = start_stage(killed, tmp_path / "killed.log")
    wait_for(tmp_path / "killed.log", "epoch 2/6", victim)
    victim.send_signal(signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL and running.wait() == 0
    assert not (killed / "data/model.safetensors").exists()
    assert len(list((killed / "scratch/train").glob("*/state.pt"))) == 1
    assert start_stage(killed, tmp_path / "resumed.log").wait() == 0
    log = (tmp_path / "resumed.log").read_text()
    assert "resuming after epoch " in log and "epoch 6/6" in log and "epoch 2/6" not in log
    for name in ("data/model.safetensors", "metrics/train.json", "metrics/train.csv", "metrics/environment.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()
    assert list((killed / "scratch/train").iterdir()) == []  # a finished run leaves no state


def test_the_environment_of_a_run_stands_beside_its_results(tmp_path):
    write_toy_set(tmp_path, train={"epochs": 1})
    assert start_stage(tmp_path, tmp_path / "log").wait() == 0, (tmp_path / "log").read_text()
    written = json.loads((tmp_path / "metrics/environment.json").read_text())
    assert written["torch"] == torch.__version__ and written["processes"] == 1 and written["threads"] == 1
    assert {"lesionpipe", "python", "torchvision", "numpy", "device"} < set(written)


def test_state_of_other_parameters_or_inputs_is_not_taken_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "lesions.csv"
    data.write_text("one")
    first = state.fingerprint_of({"epochs": 4}, [data])
    assert state.fingerprint_of({"epochs": 4}, [data]) == first
    assert state.fingerprint_of({"epochs": 5}, [data]) != first
    data.write_text("two")
    assert state.fingerprint_of({"epochs": 4}, [data]) != first


WEIGHTS = "data/inputs/weights/{}.pth"


@pytest.mark.parametrize(
    "change",
    [
        {"network": {"weights": WEIGHTS.format("a"), "attention": False}},
        {"network": {"weights": WEIGHTS.format("b")}},
        {"preprocess": {"hu": [-1000, 1000]}},
        {"train": {"flip": 0.25}},
        {"lesions": {"noisy": "drop"}},
        {"dataset": {"parts": ["02", "01"]}},
        {"dataset": {"parts": ["01"]}},
        "data/lesions.csv",
        "data/anchors.json",
        "data/slices/02.npy",
        "data/slices/02.csv",
        "data/masks/02.npz",
        WEIGHTS.format("a"),
    ],
    ids=str,
)
def test_one_change_of_a_setting_or_an_input_is_another_run(tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    before = fingerprint_of_two_parts()
    assert fingerprint_of_two_parts() == before
    if isinstance(change, str):
        Path(change).write_text("changed")
    assert fingerprint_of_two_parts(change if isinstance(change, dict) else {}) != before


def fingerprint_of_two_parts(changes: dict | None = None) -> str:
    """Of a run on two parts with weights of its own; input files that are missing are made, empty."""
    sections = {"dataset": {"parts": ["01", "02"]}, "network": {"weights": WEIGHTS.format("a")}} | (changes or {})
    params = Params.model_validate(toy_params(**sections))
    weights = Path(params.network.weights)
    weights.parent.mkdir(parents=True, exist_ok=True)
    weights.touch()
    files = input_files(params.dataset.parts, params.network.weights)
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    settings = [section.model_dump() for section in (params.lesions, params.preprocess, params.network, params.train)]
    return state.fingerprint_of({"parts": params.dataset.parts, "rest": settings}, files)


def test_the_fingerprint_of_the_stage_knows_parts_noisy_lesions_and_all_sections(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = set()
    for change in (
        {},
        {"lesions": {"noisy": "drop"}},
        {"preprocess": {"hu": [-1000, 1000]}},
        {"train": {"flip": 0.25}},
    ):
        folders.add(training_of(write_toy_set(tmp_path, **change)).state_folder)
    assert len(folders) == 4


def test_every_byte_of_a_large_input_counts(tmp_path, monkeypatch):
    """A part made anew with one other slice has the same size; 256 samples of it would miss half of its slices."""
    monkeypatch.chdir(tmp_path)
    array = tmp_path / "01.npy"
    with array.open("wb") as handle:
        handle.truncate((64 << 20) + 1)
    first = state.fingerprint_of({}, [array])
    assert state.fingerprint_of({}, [array]) == first
    with array.open("r+b") as handle:
        handle.seek(150_000)  # between two of the samples
        handle.write(b"\1")
    assert state.fingerprint_of({}, [array]) != first


def test_code_that_changes_no_result_is_not_in_the_fingerprint():
    code = state.loaded_code()
    assert "lesionpipe.train.loop" in code and "lesionpipe.core.formats" in code and "lesionpipe.data.samples" in code
    assert not [name for name in code if name.startswith("lesionpipe.params")]
    assert not {"lesionpipe.core.errors", "lesionpipe.core.progress", "lesionpipe.train.state"} & set(code)


def test_a_loss_that_is_not_finite_stops_with_what_to_change(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"not finite in epoch \d, step \d .*lower train\.learning_rate \(now 1e\+30\)"):
        train(tmp_path, monkeypatch, train={"learning_rate": 1e30, "gradient_clip_norm": None})


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"runtime": {"devices": 3}}, r"train\.batch_size = 4 can't be shared out evenly over 3 processes"),
        ({"runtime": {"device": "cuda", "devices": 64}}, r"runtime\.devices = 64"),
        ({"network": {"levels": "P3-P7"}}, r"anchors of strides .*run `dvc repro anchors`"),
        ({"preprocess": {"image_size": 96}}, r"slices of shape \(3, 64, 64\)"),
        ({"network": {"weights": "data/inputs/weights/none.pth"}}, r"network\.weights: .*none\.pth: no such file"),
        ({"network": {"weights": "../.."}}, r"network\.weights = \.\./\.\.: lies outside of data/inputs/weights"),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, monkeypatch, changes, words):
    with pytest.raises(UserError, match=words):
        train(tmp_path, monkeypatch, **changes)


@pytest.mark.parametrize(
    "file, remedy",
    [
        ("data/lesions.csv", "dvc repro lesions"),
        ("data/anchors.json", "dvc repro anchors"),
        ("data/slices/01.npy", "dvc repro preprocess@01"),
        ("data/slices/01.csv", "dvc repro preprocess@01"),
        ("data/masks/01.npz", "dvc repro masks@01"),
    ],
)
def test_a_missing_input_names_the_stage_that_makes_it(tmp_path, monkeypatch, file, remedy):
    monkeypatch.chdir(tmp_path)
    params = write_toy_set(tmp_path)
    Path(file).unlink()
    with pytest.raises(UserError, match=rf"{file}: no such file; run `{remedy}`"):
        training_of(params)


@pytest.mark.parametrize(
    "anchors",
    [
        {},
        [],
        {"sizes": [4], "scales": [1], "ratios": [1], "strides": [float("inf")]},
        {"sizes": [4], "scales": ["wide"], "ratios": [1], "strides": [4]},
        {"sizes": [-4], "scales": [1], "ratios": [1], "strides": [4]},
        {"sizes": [4, 8], "scales": [1], "ratios": [1], "strides": [4]},
    ],
    ids=str,
)
def test_wrong_anchors_are_refused_with_their_file(tmp_path, anchors):
    path = tmp_path / "anchors.json"
    path.write_text(json.dumps(anchors))
    with pytest.raises(UserError, match=r"anchors\.json: .*; run `dvc repro -f anchors`"):
        read_anchors(path)


def test_anchors_are_read_back(tmp_path):
    write_json(tmp_path / "anchors.json", {"sizes": [4], "scales": [1, 2], "ratios": [1], "strides": [4]})
    assert read_anchors(tmp_path / "anchors.json").per_cell == 2


def test_gradients_of_weights_used_twice_add_up_in_float32():
    """In bf16, 1 + 2^-9 is 1."""
    layer = torch.nn.Linear(1, 1, bias=False)
    with autocast(torch.device("cpu"), bf16=True):
        first, second = layer(torch.tensor([[1.0]])), layer(torch.tensor([[2.0**-9]]))
    (first.float() + second.float()).sum().backward()
    assert layer.weight.grad.item() == 1 + 2**-9
