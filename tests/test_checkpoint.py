"""model.safetensors: everything for use comes back, equal weights are equal bytes, other files are refused."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from lesionpipe.anchors.grid import level_numbers, paper_set
from lesionpipe.core.errors import UserError, run
from lesionpipe.core.tensor_file import Unreadable, load_tensors
from lesionpipe.detectors.build import build_detector
from lesionpipe.detectors.checkpoint import FORMAT, VERSION, load_model, save_model
from lesionpipe.params import load_params

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
NETWORK = PARAMS.network.model_copy(
    update={"backbone": "small", "channels": 16, "head_depth": 1, "head_channels": 16, "weights": None}
)
ANCHORS = paper_set(level_numbers(NETWORK.levels)).scaled(0.375)


def values(**network) -> dict:
    return PARAMS.model_dump(mode="json") | {"network": NETWORK.model_dump(mode="json") | network}


@pytest.fixture
def detector():
    torch.manual_seed(0)
    return build_detector(NETWORK, PARAMS.preprocess, ANCHORS).eval()


def header(**changes) -> dict[str, str]:
    """That of a whole model, with changes."""
    parts = {"params": json.dumps(values()), "anchors": json.dumps(ANCHORS.to_dict()), "operating_points": "{}"}
    return {"format": FORMAT, "version": VERSION, **parts, **changes}


def without(section: str, key: str) -> str:
    """The parameters without one key, as JSON."""
    params = values()
    del params[section][key]
    return json.dumps(params)


def test_a_saved_detector_answers_as_before(detector, tmp_path):
    save_model(tmp_path / "model.safetensors", detector, ANCHORS, values())
    model = load_model(tmp_path / "model.safetensors")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.detector.network(images).logits, detector.network(images).logits)
    assert model.anchors == ANCHORS
    assert (model.slices, model.image_size, model.hu) == (3, PARAMS.preprocess.image_size, PARAMS.preprocess.hu)
    assert model.params == values()
    assert not model.detector.training


def test_any_reader_of_safetensors_sees_weights_and_header(detector, tmp_path):
    save_model(tmp_path / "model.safetensors", detector, ANCHORS, values())
    with safe_open(tmp_path / "model.safetensors", framework="numpy") as handle:
        assert set(handle.keys()) == set(detector.state_dict())
        assert handle.metadata()["format"] == "lesionpipe detector" and handle.metadata()["version"] == VERSION
        assert json.loads(handle.metadata()["params"])["preprocess"]["slices"] == 3
        assert json.loads(handle.metadata()["anchors"])["strides"] == [4, 8, 16, 32, 64]


def test_operating_points_come_back(detector, tmp_path):
    save_model(tmp_path / "model.safetensors", detector, ANCHORS, values(), {"0.5": 0.9, "4": 0.25})
    assert load_model(tmp_path / "model.safetensors").operating_points == {"0.5": 0.9, "4": 0.25}


def test_equal_weights_give_equal_bytes_whatever_the_name_or_memory_format(detector, tmp_path):
    save_model(tmp_path / "a.safetensors", detector, ANCHORS, values())
    expected = (tmp_path / "a.safetensors").read_bytes()
    detector.to(memory_format=torch.channels_last)
    for _ in range(8):  # safetensors itself writes its header in random order
        save_model(tmp_path / "another.safetensors", detector, ANCHORS, values())
        assert (tmp_path / "another.safetensors").read_bytes() == expected


def test_other_weights_give_other_bytes(detector, tmp_path):
    save_model(tmp_path / "a.safetensors", detector, ANCHORS, values())
    with torch.no_grad():
        next(detector.parameters()).add_(1)
    save_model(tmp_path / "b.safetensors", detector, ANCHORS, values())
    assert (tmp_path / "a.safetensors").read_bytes() != (tmp_path / "b.safetensors").read_bytes()


def test_a_full_disk_is_reported_in_one_line_and_costs_nothing(detector, small_disk):
    (small_disk / "model.safetensors").write_bytes(b"before")
    with pytest.raises(OSError, match=r"model\.safetensors") as caught:
        save_model(small_disk / "model.safetensors", detector, ANCHORS, values())
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(SystemExit, match=r"no space left on the disk while writing .*model\.safetensors"):
        run(lambda: save_model(small_disk / "model.safetensors", detector, ANCHORS, values()))
    assert {p.name: p.read_bytes() for p in small_disk.iterdir()} == {"model.safetensors": b"before"}


def test_weights_trained_from_imagenet_are_not_fetched_again(detector, tmp_path):
    save_model(tmp_path / "model.safetensors", detector, ANCHORS, values(weights="/gone/imagenet.pth"))
    assert load_model(tmp_path / "model.safetensors").params["network"]["weights"] == "/gone/imagenet.pth"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.safetensors: no such file; train a model first"):
        load_model(tmp_path / "gone.safetensors")


def test_a_cut_or_damaged_file_is_refused(detector, tmp_path):
    save_model(tmp_path / "model.safetensors", detector, ANCHORS, values())
    content = (tmp_path / "model.safetensors").read_bytes()
    for damaged in (*(content[:kept] for kept in (0, 10, len(content) // 2, len(content) - 1)), b"x" * 1000):
        (tmp_path / "cut.safetensors").write_bytes(damaged)
        with pytest.raises(UserError, match=r"cut\.safetensors: damaged or not a model") as caught:
            load_model(tmp_path / "cut.safetensors")
        assert "\n" not in str(caught.value)


def test_a_folder_is_no_model(tmp_path):
    with pytest.raises(UserError, match="damaged or not a model"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"format": "another"}, "not a lesionpipe model"),
        ({"version": "99"}, "format version 99, this program reads 4"),
        ({"params": None}, "its header has no 'params'"),
        ({"operating_points": None}, "its header has no 'operating_points'"),
        ({"params": "{"}, "don't go together .*; train again"),
        ({"params": "{}"}, r"don't go together \(no 'preprocess'\)"),
        ({"params": "[]"}, "don't go together"),
        ({"params": without("preprocess", "hu")}, "don't go together .*hu"),
        ({"params": without("preprocess", "image_size")}, "don't go together .*image_size"),
        ({"params": without("network", "backbone")}, "don't go together .*backbone"),
        ({"anchors": "{}"}, "don't go together .*anchors"),
        ({"anchors": json.dumps(paper_set((3, 4, 5, 6, 7)).to_dict())}, "don't go together .*strides"),
        ({"operating_points": "[1]"}, "don't go together"),
        ({}, "don't go together"),  # the weights of another network
    ],
)
def test_foreign_files_and_damaged_headers_are_refused_in_one_line(changed, words, tmp_path):
    content = {name: text for name, text in header(**changed).items() if text is not None}
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors", content)
    with pytest.raises(UserError, match=rf"foreign\.safetensors: .*{words}") as caught:
        load_model(tmp_path / "foreign.safetensors")
    assert "\n" not in str(caught.value)


def test_tensors_without_a_header_are_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"not a lesionpipe model; give the model\.safetensors of the stage 'train'"):
        load_model(tmp_path / "plain.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_whose_weights_are_no_numbers_is_refused(value, detector, tmp_path):
    with torch.no_grad():
        detector.network.classification.layers[0].bias[0] = value
    save_model(tmp_path / "model.safetensors", detector, ANCHORS, values())
    with pytest.raises(UserError, match=r"model\.safetensors: .*classification.layers.0.bias' are not finite numbers"):
        load_model(tmp_path / "model.safetensors")


def test_a_model_of_earlier_versions_is_refused_and_its_pickle_never_read(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"format": FORMAT, "version": 2, "x": Evil()}, tmp_path / "model.pt")
    with pytest.raises(UserError, match=r"model\.pt: a file of torch, such as the model\.pt of earlier versions"):
        load_model(tmp_path / "model.pt")
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(Unreadable, match="damaged, or more than tensors and plain values"):
        load_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_the_parameters_are_refused(detector, tmp_path):
    save_model(tmp_path / "model.safetensors", detector, ANCHORS, values(channels=32))
    with pytest.raises(UserError, match="weights and header don't go together"):
        load_model(tmp_path / "model.safetensors")
