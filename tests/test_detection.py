"""The stage `detect`: detections in original px, heatmaps, refusals."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from toy_set import ANCHORS, ROOT, SIDE, needs_compiler, write_toy_set

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.core.devices import Hardware
from lesionpipe.core.errors import UserError
from lesionpipe.core.formats import write_csv
from lesionpipe.data.detections import DETECTION_COLUMNS, read_heatmaps
from lesionpipe.data.stored.slices import SliceStore
from lesionpipe.detect.stored_slices import (
    DetectionSettings,
    SliceDetections,
    detect_slices,
    heatmap,
    ms_per_image,
    write_heatmaps,
)
from lesionpipe.detectors import backbones as backbone
from lesionpipe.detectors.build import build_detector
from lesionpipe.detectors.checkpoint import MODEL, Model, load_model, save_model
from lesionpipe.detectors.interface import DecodingSettings, Detector, Prediction
from lesionpipe.detectors.retinanet.detector import RetinaNet
from lesionpipe.params import Params

CPU = Hardware("cpu", 1, 1, 0)
DECODING = DecodingSettings(0.001, 1000, 0.5, 100, calibrate=True, mask_threshold=0.5)
SETTINGS = DetectionSettings(DECODING, recist_margin_px=5.0, batch_size=8, precision="32", compiled=False)


def write_toy_model(folder: Path, **network) -> Params:
    """The toy set and an untrained model of it."""
    params = write_toy_set(folder, network=network)
    anchors = AnchorSet.from_dict(ANCHORS)
    torch.manual_seed(0)
    built = build_detector(params.network, params.preprocess, anchors)
    save_model(folder / MODEL, built, anchors, params.model_dump(mode="json"))
    return params


def toy_model(folder: Path, **network) -> tuple[Model, SliceStore]:
    """An untrained model, and the val and test slices of the toy set."""
    write_toy_model(folder, **network)
    store = SliceStore.open(folder / "data/slices", ["01"]).select(["val", "test"])
    return load_model(folder / MODEL), store


def detected(model: Model, store: SliceStore, **changes) -> SliceDetections:
    return detect_slices(model, store, dataclasses.replace(SETTINGS, **changes), CPU)


def test_detections_are_sorted_and_lie_in_the_original_image(tmp_path):
    model, store = toy_model(tmp_path)
    store.index["scale_x"], store.index["scale_y"] = 0.5, 0.25  # the archive's slice: 128 x 256 px
    table = detected(model, store).table
    assert tuple(table.columns) == DETECTION_COLUMNS
    assert table["split"].unique().tolist() == ["test", "val"] and table["file_name"].nunique() == 8
    for _, own in table.groupby(["split", "file_name"]):
        assert own["score"].is_monotonic_decreasing and len(own) <= DECODING.detections_per_image
    low, high = table[["x1_original_px", "y1_original_px"]], table[["x2_original_px", "y2_original_px"]]
    assert (low.min() >= -0.501).all() and (high.max() <= [127.501, 255.501]).all()
    assert high["x2_original_px"].max() > 64 and high["y2_original_px"].max() > 128


def test_batch_size_changes_no_score(tmp_path):
    model, store = toy_model(tmp_path)
    one, three = (detected(model, store, batch_size=n) for n in (1, 3))
    columns = ["split", "file_name", "score"]  # the boxes of equal scores may change places
    pd.testing.assert_frame_equal(one.table[columns], three.table[columns], rtol=1e-4)
    np.testing.assert_array_equal(one.heatmaps, three.heatmaps)


def test_in_bf16_nearly_every_detection_has_a_score_of_its_own(tmp_path):
    model, store = toy_model(tmp_path)
    torch.nn.init.normal_(model.detector.network.classification.layers[-1].weight, std=0.1)  # as after training
    scores = detected(model, store, precision="bf16").table["score"]
    assert scores.nunique() >= 0.99 * len(scores) > 100


def test_heatmaps_are_means_of_four_by_four_pixels(tmp_path):
    probability = torch.zeros(1, 8, 4)
    probability[0, :2] = 1.0  # half of the first cell
    assert heatmap(probability).tolist() == [[[128], [0]]]
    model, store = toy_model(tmp_path)
    write_heatmaps(tmp_path / "heatmaps.npz", detected(model, store))
    heatmaps = read_heatmaps(tmp_path / "heatmaps.npz")
    assert list(heatmaps) == store.index["file_name"].tolist()
    assert {(one.shape, one.dtype.name) for one in heatmaps.values()} == {((SIDE // 4, SIDE // 4), "uint8")}


def test_a_network_without_mask_branch_leaves_no_heatmaps(tmp_path):
    model, store = toy_model(tmp_path, mask_branch=False)
    found = detected(model, store)
    assert len(found.heatmap_names) == 0 and found.heatmaps.shape == (0, SIDE // 4, SIDE // 4)
    assert found.images == 8 and len(found.table) > 0


class Centre(Detector):
    """Another family: one box in each image, as wide as the margin, its score the brightness of the image."""

    loss_names = ("nothing",)

    def predict(self, images, settings, recist_margin=0.0):
        side, scores = images.shape[-1], images.mean(dim=(1, 2, 3))
        boxes = [torch.tensor([[0.0, 0.0, float(margin[0]), side - 1.0]]) for margin in recist_margin]
        return [Prediction(box, score[None], None) for box, score in zip(boxes, scores, strict=True)]


def test_any_family_is_detected_with_and_its_images_are_normalised_hu(tmp_path):
    model, store = toy_model(tmp_path)
    store.index["scale_x"] = 0.5
    found = detected(dataclasses.replace(model, detector=Centre()), store)
    assert len(found.table) == len(store) and found.heatmaps.size == 0
    low, high = model.hu
    for i, name in enumerate(store.index["file_name"]):
        (row,) = found.table[found.table["file_name"] == name].itertuples()
        assert row.score == pytest.approx((store.slices(i).mean() - low) * 2 / (high - low) - 1, abs=1e-5)
        # 5 px of the original are 2.5 stored px, and a corner at 2.5 is at 3 / 0.5 - 0.5
        assert (row.x1_original_px, row.x2_original_px) == pytest.approx((0.5, 5.5))


def test_the_time_of_a_slice_is_that_of_whole_batches_after_the_first():
    assert ms_per_image([(3, 9.0), (3, 0.3), (3, 0.6), (2, 5.0)]) == pytest.approx(150)
    assert ms_per_image([(3, 0.9), (2, 5.0)]) == pytest.approx(1180)  # nothing better is known


@needs_compiler
def test_a_compiled_detector_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "SMALL_RESIDUALS", (0, 0, 0, 0))  # less for the C++ compiler to do
    model, store = toy_model(tmp_path)
    asked, compile_it = [], RetinaNet.compile
    monkeypatch.setattr(RetinaNet, "compile", lambda detector: (asked.append(detector), compile_it(detector)))
    plain = detected(model, store, batch_size=4)
    assert not asked
    compiled = detected(model, store, batch_size=4, compiled=True)
    assert len(asked) == 1
    columns = ["split", "file_name", "score"]
    pd.testing.assert_frame_equal(compiled.table[columns], plain.table[columns], rtol=1e-4)
    np.testing.assert_allclose(compiled.heatmaps.astype(int), plain.heatmaps.astype(int), atol=1)


def test_detection_leaves_the_models_own_detector_as_it_is(tmp_path):
    model, store = toy_model(tmp_path)
    before = {name: value.clone() for name, value in model.detector.state_dict().items()}
    detected(model, store, precision="bf16")
    assert all(torch.equal(before[name], value) for name, value in model.detector.state_dict().items())


def test_nothing_above_the_score_threshold_is_an_empty_table(tmp_path):
    model, store = toy_model(tmp_path)
    table = detected(model, store, decoding=dataclasses.replace(DECODING, score_threshold=1.0)).table
    assert tuple(table.columns) == DETECTION_COLUMNS and len(table) == 0


def test_slices_that_the_model_was_not_trained_for_are_refused(tmp_path):
    model, store = toy_model(tmp_path)
    with pytest.raises(UserError, match=r"shape \(3, 64, 64\), the model was trained for \(3, 96, 96\)"):
        detected(dataclasses.replace(model, image_size=96), store)


# the stage -----------------------------------------------------------------------------------------------------------


def run_stage(folder: Path) -> subprocess.CompletedProcess:
    """`python -m stages.detect` in `folder` with this checkout's code."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "stages.detect"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_two_runs_of_the_stage_leave_the_same_tracked_bytes_and_times_apart_from_them(tmp_path):
    write_toy_model(tmp_path)
    tracked = [tmp_path / name for name in ("data/detections.csv", "data/heatmaps.npz", "metrics/detect.json")]
    contents = []
    for _ in range(2):
        done = run_stage(tmp_path)
        assert done.returncode == 0, done.stderr
        contents.append([path.read_bytes() for path in tracked])
    assert contents[0] == contents[1]
    assert set(json.loads(tracked[2].read_text())) == {"images", "detections", "precision"}
    assert json.loads((tmp_path / "data/times/detect.json").read_text())["ms_per_image"] > 0


def spoil_model(folder: Path) -> None:
    (folder / MODEL).write_bytes((folder / MODEL).read_bytes()[:1000])


def spoil_weights(folder: Path) -> None:
    model = load_model(folder / MODEL)
    next(model.detector.parameters()).data.fill_(float("nan"))
    save_model(folder / MODEL, model.detector, model.anchors, model.params)


def spoil_slices(folder: Path) -> None:
    (folder / "data/slices/01.npy").write_bytes(b"")


def spoil_splits(folder: Path) -> None:
    index = pd.read_csv(folder / "data/slices/01.csv")
    write_csv(folder / "data/slices/01.csv", index.assign(split="train"))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_model, "data/model.safetensors: damaged or not a model"),
        (spoil_weights, "data/model.safetensors: weights .* are not finite numbers"),
        (spoil_slices, "data/slices/01.npy: "),
        (spoil_splits, "detect.splits: no slice of val, test in the parts 01"),
    ],
)
def test_damaged_inputs_of_the_stage_end_in_one_line(spoil, words, tmp_path):
    write_toy_model(tmp_path)
    spoil(tmp_path)
    done = run_stage(tmp_path)
    assert done.returncode == 1
    assert re.search(words, done.stderr) and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "data/detections.csv").exists()
