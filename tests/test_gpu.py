"""Training and detection on a GPU, where there is one."""

import numpy as np
import pytest
import torch
from toy_set import write_toy_set

from lesionpipe.core.devices import Hardware
from lesionpipe.data.slices import SliceStore
from lesionpipe.detect.stored_slices import detect_slices
from lesionpipe.detectors.checkpoint import load_model, save_model
from lesionpipe.train.train import Inputs, train_detector
from stages.detect import settings_of

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def test_what_a_gpu_has_learned_is_found_alike_by_both_devices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    params = write_toy_set(
        tmp_path,
        train={"epochs": 10, "precision": "bf16"},
        runtime={"device": DEVICE, "workers": 2},
    )
    trained = train_detector(Inputs(("01",)), params.preprocess, params.network, params.train, params.runtime)
    losses = trained.history.table()["loss_total"]
    assert losses.min() < 0.8 * losses.iloc[0]
    save_model("model.safetensors", trained.detector, trained.anchors, params.model_dump(mode="json"))
    shards = SliceStore.open("data/slices", ["01"]).select(params.detect.splits)
    found = [detect_slices(load_model("model.safetensors", d), shards, settings_of(params.detect), Hardware(d, 1, 1, 2)) for d in ("cpu", DEVICE)]
    best = [one.table.groupby("file_name").first().filter(regex="px|score") for one in found]
    np.testing.assert_allclose(best[1], best[0], rtol=0.02, atol=0.5)  # TF32 has ten bits
