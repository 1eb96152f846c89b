"""Two-stage detectors in the training loop: resumed to the same bytes, and in two processes as in one."""

import pytest
import torch
from toy_set import write_toy_set
from train_stage import check_gradients_of_two_processes, train, training_of

from lesionpipe.detectors.checkpoint import load_model, save_model
from lesionpipe.detectors.interface import DecodingSettings
from lesionpipe.train import loop

KINDS = ("faster-rcnn", "mask-rcnn", "3dce")
DECODING = DecodingSettings(0.0, 300, 0.5, 10, calibrate=False, mask_threshold=0.5, proposals=30)


def network_of(kind):
    return {"kind": kind, "stride": 8}


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_training_ends_with_the_weights_and_detections_of_an_undisturbed_one(
    tmp_path, monkeypatch, kind, capsys
):
    results, plain = [], loop.save_state

    def stop_after_saving(*state):
        plain(*state)
        raise KeyboardInterrupt

    changes = {"network": network_of(kind), "train": {"epochs": 2}}
    for name in ("undisturbed", "interrupted"):
        (tmp_path / name).mkdir()
        if name == "interrupted":
            monkeypatch.setattr(loop, "save_state", stop_after_saving)
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path / name, monkeypatch, **changes)
            monkeypatch.setattr(loop, "save_state", plain)
        training, history = train(tmp_path / name, monkeypatch, **changes)
        save_model("model.safetensors", training.detector, training.anchors, training.parameters)
        results.append(
            ((tmp_path / name / "model.safetensors").read_bytes(), history.table(), load_model("model.safetensors"))
        )
    assert "resuming after epoch 1" in capsys.readouterr().out
    (first, table, model), (second, other, again) = results
    assert first == second and table.equals(other)
    assert model.anchors == model.detector.anchor_set == training.detector.anchor_set
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found, repeated = model.detector.predict(images, DECODING)[0], again.detector.predict(images, DECODING)[0]
    assert len(found.boxes) and torch.equal(found.boxes, repeated.boxes) and torch.equal(found.scores, repeated.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_gradients_of_one(tmp_path, kind):
    """All 12 slices in one batch, or 6 and 6: what is drawn for an image depends on that image alone."""
    write_toy_set(tmp_path, network=network_of(kind), train={"epochs": 1, "batch_size": 12, "gradient_clip_norm": None})
    check_gradients_of_two_processes(tmp_path, timeout=300)


def test_masks_are_read_where_the_kind_learns_from_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        training = training_of(write_toy_set(tmp_path, network=network_of(kind)))
        assert training.slices.with_masks == (kind == "mask-rcnn")
        assert training.anchors == training.detector.anchor_set
