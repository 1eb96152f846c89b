"""Parameters: what is wrong is refused by its full name, with its value and what is allowed."""

import pytest
from ruamel.yaml import YAML

from lesionpipe.core.errors import UserError
from lesionpipe.params import load_params


def changed(root, tmp_path, section, **values):
    """Path of a copy of params.yaml with some values of a section replaced (None as a value is kept as null)."""
    yaml = YAML()
    content = yaml.load((root / "params.yaml").read_text())
    content[section].update(values)
    path = tmp_path / "params.yaml"
    with path.open("w") as handle:
        yaml.dump(content, handle)
    return path


def test_committed_parameters_are_valid_and_equal_the_phantom_preset(root):
    assert load_params(root / "params.yaml") == load_params(root / "presets" / "phantom.yaml")


@pytest.mark.parametrize("preset", ["phantom", "phantom-large", "deeplesion", "deeplesion-folder"])
def test_every_preset_is_valid(root, preset):
    assert load_params(root / "presets" / f"{preset}.yaml").dataset.parts


def test_deeplesion_preset_is_the_papers_setting(root):
    params = load_params(root / "presets" / "deeplesion.yaml")
    assert len(params.dataset.parts) == 56
    assert (params.preprocess.image_size, params.preprocess.hu, params.preprocess.spacing_mm) == (512, (-1024, 1050), 2)
    assert (params.network.backbone, params.network.weights) == ("vgg19", "imagenet")
    assert (params.train.batch_size, params.train.learning_rate, params.train.schedule) == (4, 1e-4, "plateau")
    assert (params.train.lr_patience, params.train.early_stopping_patience, params.train.warmup_epochs) == (2, 4, 0)
    # RetinaNet's own but for the heads' width, whose 256 on P2 would exceed the paper's run times
    assert (params.network.channels, params.network.head_depth, params.network.head_channels) == (256, 4, 96)


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
        ("preprocess", {"slices": 4}, ["preprocess.slices", "4", "odd"]),
        ("preprocess", {"hu": [10, 5]}, ["preprocess.hu", "10", "rising"]),
        ("preprocess", {"image_size": 200}, ["preprocess.image_size", "200", "32"]),
        ("dataset", {"parts": []}, ["dataset.parts", "at least 1"]),
        ("dataset", {"parts": [8]}, ["dataset.parts.0", "8", 'two digits in quotes, such as "01"']),
        ("dataset", {"parts": ["01", "01"]}, ["dataset.parts", "once"]),
        ("dataset", {"source": "folder"}, ["dataset.path", "folder"]),
        ("dataset", {"source": "folder", "path": "x"}, ["dataset.watch = []", "[folder]", "deeplesion-folder.yaml"]),
        ("dataset", {"watch": ["folder"]}, ["dataset.watch = ['folder']", "phantom", "[]"]),
        (
            "dataset",
            {"source": "folder", "path": "x", "watch": ["folder"], "listing": "lesionpipe/deeplesion/archives.tsv"},
            ["dataset.listing = lesionpipe/deeplesion/archives.tsv", "data/listing.csv", "deeplesion-folder.yaml"],
        ),
        ("train", {"precision": 16}, ["train.precision", "16", "'32'", "'bf16'"]),
        ("detect", {"splits": ["test", "test"]}, ["detect.splits", "test", "once"]),
        ("anchors", {"ratio_pairs": 3}, ["anchors.ratio_bounds", "3"]),
        ("anchors", {"scale_bounds": [2, 1]}, ["anchors.scale_bounds", "rise"]),
        ("evaluate", {"fp_rates": [1, 0.5]}, ["evaluate.fp_rates", "rise"]),
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
