"""The stage `detect`: detections in original px, heatmaps, refusals."""

import numpy as np
import pandas as pd
import pytest
import torch
from toy_set import ANCHORS, SIDE, needs_compiler, write_toy_set

from lesionpipe.anchors.grid import AnchorSet
from lesionpipe.core.devices import Hardware
from lesionpipe.core.errors import UserError
from lesionpipe.data.slices import SliceStore
from lesionpipe.detect.detect import COLUMNS, Detector, detect, heatmap, write_heatmaps
from lesionpipe.detectors import backbones as backbone
from lesionpipe.detectors.checkpoint import load_model, save_model
from lesionpipe.detectors.retinanet.network import Network, build_network

CPU = Hardware("cpu", 1, 1, 0)


def toy_model(folder, **network):
    """An untrained model, its parameters, and the val and test slices of the toy set."""
    params = write_toy_set(folder, network=network)
    anchors = AnchorSet.from_dict(ANCHORS)
    torch.manual_seed(0)
    built = build_network(params.network, params.preprocess.slices, anchors.per_cell)
    save_model(folder / "model.pt", built, anchors, params.model_dump(mode="json"))
    shards = SliceStore.open(folder / "data/slices", ["01"]).select(params.detect.splits)
    return load_model(folder / "model.pt"), params, shards


def test_detections_are_sorted_and_lie_in_the_original_image(tmp_path):
    model, params, shards = toy_model(tmp_path)
    shards.index["scale_x"], shards.index["scale_y"] = 0.5, 0.25  # the archive's slice: 128 x 256 px
    table = detect(model, shards, params.detect, CPU).detections
    assert tuple(table.columns) == COLUMNS
    assert table["split"].unique().tolist() == ["test", "val"] and table["file_name"].nunique() == 8
    for _, own in table.groupby(["split", "file_name"]):
        assert own["score"].is_monotonic_decreasing and len(own) <= params.detect.detections_per_image
    low, high = table[["x1_original_px", "y1_original_px"]], table[["x2_original_px", "y2_original_px"]]
    assert (low.min() >= -0.501).all() and (high.max() <= [127.501, 255.501]).all()
    assert high["x2_original_px"].max() > 64 and high["y2_original_px"].max() > 128


def test_batch_size_changes_no_score(tmp_path):
    model, params, shards = toy_model(tmp_path)
    one, three = (detect(model, shards, params.detect.model_copy(update={"batch_size": n}), CPU) for n in (1, 3))
    columns = ["split", "file_name", "score"]  # the boxes of equal scores may change places
    pd.testing.assert_frame_equal(one.detections[columns], three.detections[columns], rtol=1e-4)
    np.testing.assert_array_equal(one.heatmaps, three.heatmaps)


def test_heatmaps_are_means_of_four_by_four_pixels(tmp_path):
    logits = torch.full((1, 8, 4), -100.0)
    logits[0, :2] = 100.0  # half of the first cell
    assert heatmap(logits).tolist() == [[[128], [0]]]
    model, params, shards = toy_model(tmp_path)
    found = detect(model, shards, params.detect, CPU)
    write_heatmaps(tmp_path / "heatmaps.npz", found)
    with np.load(tmp_path / "heatmaps.npz") as stored:
        assert stored["file_name"].tolist() == shards.index["file_name"].tolist()
        assert stored["heatmap"].shape == (8, SIDE // 4, SIDE // 4) and stored["heatmap"].dtype == np.uint8


def test_a_network_without_mask_branch_leaves_no_heatmaps(tmp_path):
    model, params, shards = toy_model(tmp_path, mask_branch=False)
    found = detect(model, shards, params.detect, CPU)
    assert len(found.names) == 0 and found.heatmaps.shape == (0, SIDE // 4, SIDE // 4)
    assert found.summary()["images"] == 8 and found.summary()["detections"] == len(found.detections) > 0


def test_the_time_of_a_slice_is_that_of_whole_batches_after_the_first(tmp_path):
    model, params, _ = toy_model(tmp_path)
    detector = Detector(model, params.detect, SIDE, "cpu")
    detector.spent = [(3, 9.0), (3, 0.3), (3, 0.6), (2, 5.0)]
    assert detector.ms_per_image() == pytest.approx(150)
    detector.spent = [(3, 0.9), (2, 5.0)]
    assert detector.ms_per_image() == pytest.approx(1180)  # nothing better is known


@needs_compiler
def test_a_compiled_detector_finds_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "SMALL_RESIDUALS", (0, 0, 0, 0))  # less for the C++ compiler to do
    model, params, shards = toy_model(tmp_path)
    asked, compile_it = [], Network.compile
    monkeypatch.setattr(Network, "compile", lambda network: (asked.append(network), compile_it(network)))
    settings = params.detect.model_copy(update={"precision": "32", "batch_size": 4})
    plain = detect(model, shards, settings, CPU)
    assert not asked
    compiled = detect(model, shards, settings.model_copy(update={"compile": True}), CPU)
    assert len(asked) == 1
    columns = ["split", "file_name", "score"]
    pd.testing.assert_frame_equal(compiled.detections[columns], plain.detections[columns], rtol=1e-4)
    np.testing.assert_allclose(compiled.heatmaps.astype(int), plain.heatmaps.astype(int), atol=1)


def test_nothing_above_the_score_floor_is_an_empty_table(tmp_path):
    model, params, shards = toy_model(tmp_path)
    table = detect(model, shards, params.detect.model_copy(update={"score_threshold": 1.0}), CPU).detections
    assert tuple(table.columns) == COLUMNS and len(table) == 0


def test_slices_that_the_model_was_not_trained_for_are_refused(tmp_path):
    model, params, shards = toy_model(tmp_path)
    model.params["preprocess"]["image_size"] = 96
    with pytest.raises(UserError, match=r"shape \(3, 64, 64\), the model was trained for \(3, 96, 96\)"):
        detect(model, shards, params.detect, CPU)
    with pytest.raises(UserError, match=r"no slice of \['val', 'test'\]"):
        detect(model, shards.select(["train"]), params.detect, CPU)
