"""Hard negatives: which boxes are mined, how they reach the detector, what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from toy_set import write_toy_set
from train_stage import training_of
from typer.testing import CliRunner

from lesionpipe.cli import app
from lesionpipe.core.errors import UserError
from lesionpipe.data.hard_negatives import negatives_file, read_hard_negatives, select_hard_negatives
from lesionpipe.data.samples import collate
from lesionpipe.data.stored.schema import BOX
from lesionpipe.detectors.checkpoint import save_model

FILE = "data/inputs/negatives/mined.csv"
KIND = {"kind": "faster-rcnn", "stride": 8}


def boxes_of(*rows, split="train"):
    """Rows of file name, four corners and score."""
    return pd.DataFrame([(split, *row) for row in rows], columns=["split", "file_name", *BOX, "score"])


def test_the_best_boxes_off_all_lesions_are_kept():
    lesions = boxes_of(("a.png", 10, 10, 20, 20, 0), ("a.png", 40, 40, 50, 50, 0))[["file_name", *BOX]]
    found = boxes_of(
        ("a.png", 10, 10, 20, 20, 0.99),  # a lesion
        ("a.png", 18, 18, 28, 28, 0.98),  # overlaps one with 4 of 196 px²
        ("a.png", 40, 44, 50, 54, 0.97),  # overlaps one with 60 of 140 px²
        ("a.png", 60, 60, 70, 70, 0.7),
        ("a.png", 80, 80, 90, 90, 0.9),
        ("a.png", 0, 80, 10, 90, 0.49),  # not confident
        ("b.png", 10, 10, 20, 20, 0.5),  # this slice has no lesion
    )
    mined = select_hard_negatives(found, lesions, least_score=0.5, largest_iou=0.1, per_slice=2)
    assert mined[["file_name", "score"]].to_numpy().tolist() == [["a.png", 0.98], ["a.png", 0.9], ["b.png", 0.5]]
    assert select_hard_negatives(found.iloc[:0], lesions, 0.5, 0.1, 2).empty


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A toy set whose first two training slices have three mined boxes."""
    monkeypatch.chdir(tmp_path)
    params = write_toy_set(tmp_path, network=KIND, train={"hard_negatives": FILE, "epochs": 1})
    mined = boxes_of(
        ("000001_01_01_010.png", 2, 2, 12, 12, 0.9),
        ("000001_01_01_010.png", 50, 2, 60, 12, 0.8),
        ("000002_01_01_010.png", 2, 50, 12, 60, 0.7),
    )
    write(mined)
    return params, mined


def write(table):
    Path(FILE).parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(FILE, index=False)


def test_mined_boxes_move_with_the_augmented_slice_and_reach_the_detector(toy):
    training = training_of(toy[0])
    training.slices.ranges = training.slices.ranges._replace(crop_px=None)
    samples = [training.slices[0, index] for index in range(4)]
    assert [len(sample.negatives) for sample in samples] == [2, 1, 0, 0]
    assert samples[0].negatives.dtype == np.float32
    still = training.slices.ranges._replace(flip=0, rotation_rad=0, shear_rad=0, scale=0, translation=0)
    training.slices.ranges = still
    np.testing.assert_allclose(training.slices[0, 1].negatives, [[2, 50, 12, 60]], atol=1e-4)
    training.slices.ranges = still._replace(flip=1)  # both ways: x' = 63 - x
    np.testing.assert_allclose(training.slices[0, 1].negatives, [[51, 3, 61, 13]], atol=1e-4)
    assert [len(own) for own in collate(samples).negatives] == [2, 1, 0, 0]
    assert training.validation_slices[0].negatives is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.assign(split="val"), r"line 2: split = 'val', expected one of train; mine them anew"),
        (lambda t: t.assign(file_name="000013_01_01_010.png"), r"line 2: file_name = 000013.*no training slice"),
        (lambda t: t.drop(columns="score"), r"column score is missing; mine them anew"),
        (lambda t: t.assign(**{BOX[1]: [1, None, 2]}), r"line 3: .*no box; mine them anew"),
    ],
)
def test_boxes_of_another_split_or_data_set_are_refused_by_line(toy, change, words):
    params, mined = toy
    write(change(mined))
    with pytest.raises(UserError, match=rf"^{FILE}: {words}"):
        training_of(params)


def test_a_file_that_dvc_does_not_track_or_that_is_missing_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert negatives_file(None) is None
    with pytest.raises(UserError, match=r"train.hard_negatives: mined.csv lies outside data/inputs/negatives"):
        negatives_file("mined.csv")
    with pytest.raises(UserError, match=r"train.hard_negatives: data/inputs/negatives/x.csv: no such file; mine"):
        negatives_file("data/inputs/negatives/x.csv")


def test_the_command_mines_the_training_slices(toy):
    params, _ = toy
    training = training_of(params)
    save_model("data/model.safetensors", training.detector, training.anchors, training.parameters)
    done = CliRunner().invoke(app, ["mine", "--score", "0", "--per-slice", "3"])
    assert done.exit_code == 0, done.output
    mined = read_hard_negatives(Path("data/mined.csv"), training.slices.slices.index)
    assert mined["file_name"].value_counts().max() == 3 and set(mined["split"]) == {"train"}
    assert "of 12 training slices\n" in done.output and f"train.hard_negatives: {FILE}" in done.output
