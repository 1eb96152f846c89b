"""What goes with which kind of detector: impossible combinations are refused, what has no effect is said."""

import subprocess
import sys

import pytest
from ruamel.yaml import YAML
from toy_set import toy_params, write_toy_set
from train_stage import ENVIRONMENT

from lesionpipe.core.errors import UserError
from lesionpipe.detectors.build import unused_parameters
from lesionpipe.params import Params, load_params

MINED = {"hard_negatives": "data/inputs/negatives/mined.csv"}


def load(tmp_path, **changes):
    path = tmp_path / "params.yaml"
    with path.open("w") as handle:
        YAML().dump(toy_params(**changes), handle)
    return load_params(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"network": {"kind": "3dce"}, "preprocess": {"slices": 5}},
            "preprocess.slices = 5: network.kind = 3dce needs 3, 9, 15, 21 or 27 of them",
        ),
        ({"network": {"kind": "3dce"}, "preprocess": {"slices": 9}}, "phantom.context_mm = 2: 9 slices need 8 mm"),
        (
            {"network": {"kind": "mask-rcnn", "levels": "P3-P7"}},
            "network.levels = P3-P7: only network.kind = retinanet has them, not mask-rcnn",
        ),
        (
            {"train": MINED},
            f"train.hard_negatives = {MINED['hard_negatives']}: network.kind = retinanet learns from all",
        ),
        (
            {"network": {"kind": "faster-rcnn", "hard_negative_class": True}},
            "network.hard_negative_class = true: needs train.hard_negatives",
        ),
        ({"network": {"stride": 5}}, "network.stride = 5"),
        ({"network": {"kind": "yolo"}}, "network.kind = 'yolo'"),
    ],
)
def test_impossible_combinations_are_refused_by_the_parameter_to_change(tmp_path, changes, words):
    with pytest.raises(UserError) as caught:
        load(tmp_path, **changes)
    assert str(caught.value).startswith(f"{tmp_path / 'params.yaml'}: {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["faster-rcnn", "mask-rcnn", "3dce"])
def test_one_switch_changes_the_kind(tmp_path, kind):
    assert load(tmp_path, network={"kind": kind}).network.kind == kind
    assert load(tmp_path, network={"kind": kind, "hard_negative_class": True}, train=MINED)


@pytest.mark.parametrize(("slices", "context"), [(3, 2), (9, 8), (15, 14), (27, 26)])
def test_3dce_takes_as_many_slices_as_the_phantom_is_deep(tmp_path, slices, context):
    changes = {"network": {"kind": "3dce"}, "preprocess": {"slices": slices}}
    assert load(tmp_path, **changes, phantom={"context_mm": context}).preprocess.slices == slices
    assert load(tmp_path, **changes, dataset={"source": "nih"}).preprocess.slices == slices


def test_what_has_no_effect_is_a_parameter_or_a_section():
    known = {f"{name}.{key}" for name, part in Params.model_fields.items() for key in part.annotation.model_fields}
    for kind in ("retinanet", "faster-rcnn", "mask-rcnn", "3dce"):
        assert set(unused_parameters(kind)) <= known | set(Params.model_fields)
    assert unused_parameters("retinanet") == ()


def test_training_says_once_what_has_no_effect_and_detection_refuses_a_model_of_another_kind(tmp_path):
    write_toy_set(tmp_path, network={"kind": "faster-rcnn", "stride": 8}, train={"epochs": 1})
    trained = stage(tmp_path, "train")
    assert trained.returncode == 0, trained.stderr
    line = "network.kind: faster-rcnn, which doesn't use anchors, network.head_depth, network.mask_branch"
    assert trained.stdout.count(line) == 1
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("kind: faster-rcnn", "kind: mask-rcnn"))
    refused = stage(tmp_path, "detect")
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    assert "network.kind = faster-rcnn, params.yaml asks for mask-rcnn" in refused.stderr


def stage(folder, name):
    words = [sys.executable, "-m", f"stages.{name}"]
    return subprocess.run(words, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
