"""model.pt: everything for use comes back, equal weights are equal bytes, other files are refused."""

import errno
from pathlib import Path

import pytest
import torch

from lesionpipe.anchors.grid import level_numbers, paper_set
from lesionpipe.core.errors import UserError, run
from lesionpipe.detectors.checkpoint import FORMAT, load_model, save_model
from lesionpipe.detectors.retinanet.network import build_network
from lesionpipe.params import load_params

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
NETWORK = PARAMS.network.model_copy(
    update={"backbone": "small", "channels": 16, "head_depth": 1, "head_channels": 16, "weights": None}
)
ANCHORS = paper_set(level_numbers(NETWORK.levels)).scaled(0.375)


def values(**network) -> dict:
    return PARAMS.model_dump(mode="json") | {"network": NETWORK.model_dump(mode="json") | network}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_network(NETWORK, PARAMS.preprocess.slices, ANCHORS.per_cell).eval()


def test_a_saved_detector_answers_as_before(network, tmp_path):
    save_model(tmp_path / "model.pt", network, ANCHORS, values())
    model = load_model(tmp_path / "model.pt")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model.network(images).logits, network(images).logits)
    assert model.anchors == ANCHORS
    assert model.preprocess == PARAMS.preprocess.model_dump(mode="json")
    assert not model.network.training


def test_equal_weights_give_equal_bytes_whatever_the_name_or_memory_format(network, tmp_path):
    save_model(tmp_path / "a.pt", network, ANCHORS, values())
    save_model(tmp_path / "another.pt", network.to(memory_format=torch.channels_last), ANCHORS, values())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "another.pt").read_bytes()


def test_other_weights_give_other_bytes(network, tmp_path):
    save_model(tmp_path / "a.pt", network, ANCHORS, values())
    with torch.no_grad():
        next(network.parameters()).add_(1)
    save_model(tmp_path / "b.pt", network, ANCHORS, values())
    assert (tmp_path / "a.pt").read_bytes() != (tmp_path / "b.pt").read_bytes()


def test_a_full_disk_is_told_in_one_line_and_costs_nothing(network, small_disk):
    (small_disk / "model.pt").write_bytes(b"before")
    with pytest.raises(OSError, match=r"model\.pt") as caught:
        save_model(small_disk / "model.pt", network, ANCHORS, values())
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(SystemExit, match=r"no space left on the disk while writing .*model\.pt"):
        run(lambda: save_model(small_disk / "model.pt", network, ANCHORS, values()))
    assert {p.name: p.read_bytes() for p in small_disk.iterdir()} == {"model.pt": b"before"}


def test_weights_trained_from_imagenet_are_not_fetched_again(network, tmp_path):
    save_model(tmp_path / "model.pt", network, ANCHORS, values(weights="/gone/imagenet.pth"))
    assert load_model(tmp_path / "model.pt").params["network"]["weights"] == "/gone/imagenet.pth"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.pt: no such file"):
        load_model(tmp_path / "gone.pt")


def test_a_cut_or_damaged_file_is_refused(network, tmp_path):
    save_model(tmp_path / "model.pt", network, ANCHORS, values())
    content = (tmp_path / "model.pt").read_bytes()
    for kept in (0, 10, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.pt").write_bytes(content[:kept])
        with pytest.raises(UserError, match=r"cut\.pt: damaged or not a model"):
            load_model(tmp_path / "cut.pt")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": {}}, "not a lesionpipe model"),
        ([1, 2], "not a lesionpipe model"),
        ({"format": FORMAT, "version": 99}, "format version 99, this program reads 2"),
        ({"format": FORMAT, "version": 1, "params": "{}"}, "format version 1, .*train again"),
        ({"format": FORMAT, "version": 2, "params": "{}"}, "part 'anchors' is missing"),
        ({"format": FORMAT, "version": 2, "params": "{}", "anchors": "{}", "weights": {}}, "don't fit together"),
    ],
)
def test_foreign_files_are_refused(content, words, tmp_path):
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(UserError, match=rf"foreign\.pt: .*{words}"):
        load_model(tmp_path / "foreign.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "ran",)

    torch.save({"format": FORMAT, "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"not a model \(damaged, or more than tensors and plain values\)"):
        load_model(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_that_do_not_fit_the_parameters_are_refused(network, tmp_path):
    save_model(tmp_path / "model.pt", network, ANCHORS, values(channels=32))
    with pytest.raises(UserError, match="weights and parameters don't fit together"):
        load_model(tmp_path / "model.pt")
