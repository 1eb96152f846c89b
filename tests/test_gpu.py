"""Training and detection on a GPU, where there is one."""

import numpy as np
import pytest
import torch
from train_stage import train

from lesionpipe.core.devices import Hardware
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.detect.stored_slices import build_settings, detect_slices
from lesionpipe.detectors.checkpoint import load_model, save_model
from lesionpipe.params import load_params

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_what_a_gpu_has_learned_is_found_alike_by_both_devices(tmp_path, monkeypatch):
    gpu = {"device": DEVICE, "workers": 2}
    training, history = train(tmp_path, monkeypatch, train={"epochs": 10, "precision": "bf16"}, runtime=gpu)
    losses = history.table()["loss_total"]
    assert losses.min() < 0.8 * losses.iloc[0]
    save_model("model.safetensors", training.detector, training.anchors, training.parameters)
    detect = load_params().detect
    slices, settings = SliceStore.open(parts=["01"]).select(detect.splits), build_settings(detect, "bf16")
    found = [
        detect_slices(load_model("model.safetensors", device), slices, settings, Hardware(device, 1, 1, 2))
        for device in ("cpu", DEVICE)
    ]
    best = [one.table.groupby("file_name").first().filter(regex="px|score") for one in found]
    np.testing.assert_allclose(best[1], best[0], rtol=0.02, atol=0.5)  # TF32 has ten bits


def test_training_without_mixed_precision_runs_on_a_gpu(tmp_path, monkeypatch):
    _, history = train(tmp_path, monkeypatch, train={"epochs": 2}, runtime={"device": DEVICE, "workers": 2})
    assert np.isfinite(history.table().to_numpy()).all()
