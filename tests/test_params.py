"""Parameters: what is wrong is refused by its full name, with its value and what is allowed."""

import json
import re
import shutil

import pytest
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from lesionpipe.core.errors import UserError
from lesionpipe.params import RENAMED, Params, load_params
from lesionpipe.params.json_schema import params_schema


def changed(root, tmp_path, section, **values):
    """Path of a copy of params.yaml with some values of a section replaced (None as a value is kept as null)."""
    yaml = YAML()
    content = yaml.load((root / "params.yaml").read_text())
    content[section].update(values)
    path = tmp_path / "params.yaml"
    with path.open("w") as handle:
        yaml.dump(content, handle)
    return path


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("train", {"batch_size": "four"}, ["train.batch_size", "'four'", "integer"]),
        ("train", {"batch_size": 2.5}, ["train.batch_size", "2.5", "integer"]),
        ("train", {"batch_size": True}, ["train.batch_size", "True", "integer"]),
        ("train", {"learning_rate": -1}, ["train.learning_rate", "-1", "greater than 0"]),
        ("train", {"learning_rate": float("nan")}, ["train.learning_rate", "nan"]),
        ("train", {"learning_rat": 1}, ["train.learning_rat", "unknown parameter"]),
        ("network", {"backbone": "vgg20"}, ["network.backbone", "'vgg20'", "'vgg19'"]),
        ("network", {"attention": "masks"}, ["network.attention", "'masks'", "'pyramid' or 'mask'"]),
        ("network", {"attention": 1}, ["network.attention", "1", "'pyramid' or 'mask'"]),
        ("network", {"attention": "mask", "mask_branch": False}, ["network.attention = mask", "network.mask_branch"]),
        ("network", {"windows": [[240, -160]]}, ["network.windows.0 = [240, -160]", "rise"]),
        ("network", {"windows": [[-1350, 150], [1050, 2000]]}, ["network.windows = [1050, 2000]", "[-1024, 1050]"]),
        ("preprocess", {"slices": 4}, ["preprocess.slices", "4", "odd"]),
        ("preprocess", {"hu": [10, 5]}, ["preprocess.hu", "[10, 5]", "rise"]),
        ("preprocess", {"image_size": 200}, ["preprocess.image_size", "200", "32"]),
        ("dataset", {"parts": []}, ["dataset.parts", "at least 1"]),
        ("dataset", {"parts": [8]}, ["dataset.parts.0", "8", 'two digits in quotes, such as "01"']),
        ("dataset", {"parts": ["01", "01"]}, ["dataset.parts = ['01', '01']", "once"]),
        ("dataset", {"path": "a\0b"}, ["dataset.path", "NUL"]),
        ("dataset", {"source": "folder"}, ["dataset.path", "folder"]),
        ("train", {"precision": 16}, ["train.precision", "16", "'32'", "'bf16'"]),
        ("detect", {"splits": ["test", "test"]}, ["detect.splits", "test", "once"]),
        ("anchors", {"ratio_pairs": 3}, ["anchors.ratio_bounds = [[1, 4], [1, 4]]", "3"]),
        ("anchors", {"ratio_bounds": [[0.5, 2], [1, 4]]}, ["anchors.ratio_bounds", "start at 1"]),
        ("anchors", {"scale_bounds": [2, 1]}, ["anchors.scale_bounds", "rise"]),
        ("anchors", {"ratio_bounds": [[1, 1e300], [1, 4]]}, ["anchors.ratio_bounds", "1e+300", "100"]),
        ("evaluate", {"size_edges_mm": [True]}, ["evaluate.size_edges_mm.0", "True", "number"]),
        ("evaluate", {"fp_rates": [1, 0.5]}, ["evaluate.fp_rates", "rise"]),
        ("evaluate", {"fp_rates": [1.0000001, 1.0000002]}, ["evaluate.fp_rates", "differ in the first six digits"]),
        ("evaluate", {"fp_rates": [1e300]}, ["evaluate.fp_rates.0", "1e+300", "10000"]),
        ("evaluate", {"operating_fp": 1e300}, ["evaluate.operating_fp", "1e+300", "10000"]),
        ("train", {"batch_size": 2**63}, ["train.batch_size", str(2**63), "10000"]),
        ("train", {"epochs": 2**63}, ["train.epochs", str(2**63), "1000000"]),
        ("detect", {"batch_size": 2**63}, ["detect.batch_size", str(2**63), "10000"]),
        ("detect", {"topk_candidates": 2**63}, ["detect.topk_candidates", str(2**63), "1000000"]),
        ("detect", {"detections_per_image": 2**63}, ["detect.detections_per_image", str(2**63), "1000000"]),
        ("evaluate", {"bootstrap": 2**63}, ["evaluate.bootstrap", str(2**63), "1000000"]),
        ("evaluate", {"report_slices": 2**63}, ["evaluate.report_slices", str(2**63), "1000000"]),
        ("train", {"seed": 2**70}, ["train.seed", str(2**70), "4294967296"]),
        ("runtime", {"cluster": "foo"}, ["runtime.cluster", "'foo'", "tcp"]),
    ],
)
def test_what_is_wrong_is_named_with_its_value(root, tmp_path, section, values, words):
    path = changed(root, tmp_path, section, **values)
    with pytest.raises(UserError) as caught:
        load_params(path)
    message = str(caught.value)
    assert "\n" not in message
    for word in (str(path), *words):
        assert word in message


def test_a_missing_file_and_broken_yaml_are_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_params(tmp_path / "absent.yaml")
    (tmp_path / "broken.yaml").write_text("train: [1, 2\nx: {")
    with pytest.raises(UserError, match="not valid YAML"):
        load_params(tmp_path / "broken.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"train: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: not UTF-8 text at byte 10"):
        load_params(tmp_path / "latin.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="whole file"):
        load_params(tmp_path / "list.yaml")


@pytest.mark.parametrize("section", ["train", "detect"])
def test_the_number_32_is_a_precision(root, tmp_path, section):
    assert getattr(load_params(changed(root, tmp_path, section, precision=32)), section).precision == "32"


def test_the_short_float_that_experiments_write_is_a_number(root, tmp_path):
    text = (root / "params.yaml").read_text()
    start = text.index("  learning_rate:")
    end = text.index("\n", start)
    (tmp_path / "params.yaml").write_text(text[:start] + "  learning_rate: 1e-05" + text[end:])
    assert load_params(tmp_path / "params.yaml").train.learning_rate == 1e-5


@pytest.mark.parametrize("old", [old for old in RENAMED if " = " not in old])
def test_an_old_name_is_answered_with_the_new_one(root, tmp_path, old):
    section, key = old.split(".")
    with pytest.raises(UserError) as caught:
        load_params(changed(root, tmp_path, section, **{key: 1}))
    assert f"{old}: {RENAMED[old]}" in str(caught.value)
    assert "\n" not in str(caught.value)
    new = re.findall(r"[a-z]+\.[a-z_]+", RENAMED[old].replace("dvc repro", ""))
    assert old not in names() and (set(new) <= names())
    assert new or "remove it" in RENAMED[old]


def test_a_renamed_parameter_is_one_complaint_and_not_a_missing_one_too(root, tmp_path):
    path = changed(root, tmp_path, "train", batch=4)
    with modify_yaml(path) as content:
        del content["train"]["batch_size"], content["train"]["seed"]
    with pytest.raises(UserError) as caught:
        load_params(path)
    message = str(caught.value)
    assert "train.batch: is now train.batch_size" in message and "train.seed: missing" in message
    assert "train.batch_size: missing" not in message


@pytest.mark.parametrize(("name", "value"), [old.split(" = ") for old in RENAMED if " = " in old])
def test_an_old_value_is_answered_with_the_new_parameter(root, tmp_path, name, value):
    section, key = name.split(".")
    with pytest.raises(UserError, match=re.escape(f"{name} = {value!r}: {RENAMED[f'{name} = {value}']}")):
        load_params(changed(root, tmp_path, section, **{key: value}))


def names() -> set[str]:
    """The full names of all parameters."""
    sections = Params.model_fields.items()
    return {f"{name}.{key}" for name, section in sections for key in section.annotation.model_fields}


def test_the_committed_schema_is_current(root):
    """`make schema` writes it anew."""
    committed = json.loads((root / "presets/params.schema.json").read_text())
    assert committed == params_schema((root / "presets/phantom.yaml").read_text())
    assert (root / "params.yaml").read_text().startswith("# yaml-language-server: $schema=presets/params.schema.json\n")


def test_every_parameter_is_in_the_schema_and_described_by_its_comment(root):
    schema = params_schema((root / "params.yaml").read_text())
    assert schema["$schema"].endswith("/2020-12/schema")
    for name in names():
        section, key = name.split(".")
        assert schema["$defs"][section.capitalize()]["properties"][key]["description"]


def test_dvc_writes_the_parameters_as_they_are(root, tmp_path):
    """So that the first `dvc exp run -S` changes one line, not forty."""
    before = (root / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    shutil.copy(root / "params.yaml", path)
    with modify_yaml(path):
        pass
    assert path.read_text() == before
    apply_overrides(path, ["evaluate.iou=0.3"])
    after = path.read_text()
    changed_lines = [pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]]
    assert [(a.split("#")[0].strip(), b.split("#")[0].strip()) for a, b in changed_lines] == [("iou: 0.5", "iou: 0.3")]
    apply_overrides(path, ["evaluate.iou=0.5"])
    assert path.read_text() == before


@pytest.mark.parametrize("value", ["[]", "null"])
def test_dvc_can_empty_every_list(root, tmp_path, value):
    """With a comment behind the key of a list, DVC's writer joins two lines of the file."""
    whole = YAML(typ="safe").load((root / "params.yaml").read_text())
    lists = [f"{s}.{key}" for s, values in whole.items() for key, v in values.items() if isinstance(v, list)]
    assert "dataset.parts" in lists
    for name in lists:
        path = tmp_path / "params.yaml"
        shutil.copy(root / "params.yaml", path)
        apply_overrides(path, [f"{name}={value}"])
        section, key = name.split(".")
        whole_then = YAML(typ="safe").load(path.read_text())
        assert whole_then[section].pop(key) == YAML(typ="safe").load(value)
        assert whole_then == {s: {k: v for k, v in values.items() if f"{s}.{k}" != name} for s, values in whole.items()}
        assert path.read_text().count("#") == (root / "params.yaml").read_text().count("#")
