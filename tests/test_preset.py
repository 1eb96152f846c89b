"""`lesionpipe preset`: whole parameter files from presets that hold only what differs."""

import shutil
import subprocess

import pytest
from dvc.utils.flatten import flatten
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML
from test_commands import call

from lesionpipe.commands.preset import preset, preset_names, whole_preset
from lesionpipe.core.errors import UserError
from lesionpipe.params import load_params
from lesionpipe.params.json_schema import parameter_comments

NAMES = ["phantom", "3dce", "3dce-5", "3dce-9", "deeplesion", "deeplesion-folder", "paper", "phantom-large"]


@pytest.fixture
def checkout(root, tmp_path, monkeypatch):
    """A Git repository with the presets and the committed parameters."""
    shutil.copytree(root / "presets", tmp_path / "presets")
    shutil.copy(root / "presets/phantom.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    call(preset, "phantom", "--force")
    git("init", "-q")
    commit()
    return tmp_path


def git(*words):
    subprocess.run(["git", *words], check=True, capture_output=True)


def commit():
    git("add", "-A")
    git("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x")


def change(section, **values):
    with modify_yaml("params.yaml") as content:
        content[section].update(values)


def values(path):
    return flatten(YAML(typ="safe", pure=True).load(path.read_text()))


def test_the_committed_parameters_are_the_default_preset(root):
    here, preset_text = (root / "params.yaml").read_text(), (root / "presets/phantom.yaml").read_text()
    assert here == preset_text.replace("$schema=", "$schema=presets/")


def test_the_presets_are_listed(checkout):
    assert call(preset).split() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_a_whole_valid_file_with_comments_in_dvcs_own_form(checkout, name):
    call(preset, name)
    path = checkout / "params.yaml"
    text = path.read_text()
    assert load_params(path).dataset.parts
    assert text.count("#") == (checkout / "presets/phantom.yaml").read_text().count("#")
    with modify_yaml(path):
        pass
    assert path.read_text() == text
    given = values(checkout / f"presets/{name}.yaml")
    assert {key: value for key, value in values(path).items() if key in given} == given


@pytest.mark.parametrize("name", set(NAMES) - {"phantom", "paper"})
def test_a_preset_holds_only_what_differs(root, name):
    default = values(root / "presets/phantom.yaml")
    same = {key for key, value in values(root / f"presets/{name}.yaml").items() if default[key] == value}
    assert not same


def test_the_folder_preset_is_the_archives_preset_but_for_its_data(root):
    folder, archives = (values(root / f"presets/{name}.yaml") for name in ("deeplesion-folder", "deeplesion"))
    assert {k: v for k, v in folder.items() if not k.startswith("dataset.")} == {
        k: v for k, v in archives.items() if not k.startswith("dataset.")
    }


def test_the_paper_preset_is_the_paper(checkout):
    call(preset, "paper")
    params = load_params("params.yaml")
    assert len(params.dataset.parts) == 56 and params.lesions.noisy == "keep"
    assert (params.preprocess.image_size, params.preprocess.slices, params.preprocess.spacing_mm) == (512, 3, 2)
    assert params.preprocess.hu == (-1024, 1050)
    masks, anchors, network, train = params.masks, params.anchors, params.network, params.train
    assert (masks.method, masks.background_ellipse_factor, masks.full_slice) == ("grabcut", None, True)
    assert (anchors.placement, anchors.objective, anchors.split) == ("concentric", "iou", "val")
    assert (anchors.scales, anchors.ratio_pairs, anchors.scale_bounds) == (3, 2, (0.4, 1.6))
    assert (anchors.ratio_bounds, anchors.sizes) == (((1, 2), (2, 4)), (32, 64, 128, 256, 512))
    assert (network.backbone, network.levels, network.mask_branch, network.attention) == ("vgg19", "P2-P6", True, True)
    assert (network.channels, network.head_depth, network.head_channels) == (256, 4, 256)
    assert (train.optimizer, train.crop) == ("adam", 1)
    assert (train.batch_size, train.learning_rate, train.schedule, train.precision) == (4, 1e-4, "plateau", "32")
    assert (train.lr_patience, train.lr_factor, train.early_stopping_patience) == (2, 0.1, 4)
    assert (train.warmup_epochs, train.gradient_clip_norm) == (0, None)
    assert (train.flip, train.rotation_rad, train.shear_rad, train.scale, train.translation) == (
        0.5,
        0.1,
        0.1,
        0.1,
        0.1,
    )
    assert params.detect.calibrate and params.evaluate.iou == 0.5


def test_the_paper_preset_names_what_the_paper_says_so_that_no_default_can_change_it(root):
    named = values(root / "presets/paper.yaml")
    default = (root / "presets/phantom.yaml").read_text()
    of_the_paper = {".".join(name) for name, comment in parameter_comments(default).items() if "(paper" in comment}
    assert not of_the_paper - named.keys()


def test_with_show_the_differences_are_printed_and_nothing_is_written(checkout):
    before = (checkout / "params.yaml").read_text()
    lines = call(preset, "paper", "--show").splitlines()
    assert "train.epochs: 12 -> 100" in lines and "train.gradient_clip_norm: 10.0 -> null" in lines
    assert "masks.full_slice: false -> true" in lines
    assert (checkout / "params.yaml").read_text() == before
    assert "equals preset phantom" in call(preset, "phantom")


def test_the_section_of_this_computer_is_kept(checkout):
    change("runtime", workers=3, device="cpu")
    commit()
    call(preset, "paper")
    runtime = load_params("params.yaml").runtime
    assert (runtime.workers, runtime.device) == (3, "cpu")
    assert load_params("params.yaml").train.batch_size == 4


def test_changes_of_ones_own_are_not_lost(checkout):
    change("dataset", path="/my/data")
    before = (checkout / "params.yaml").read_text()
    with pytest.raises(UserError, match=r"params\.yaml holds changes that neither a preset nor Git has; .*--force"):
        call(preset, "paper")
    assert (checkout / "params.yaml").read_text() == before
    commit()
    call(preset, "paper")  # Git has them
    call(preset, "deeplesion")  # a preset as it is, uncommitted
    change("dataset", path="/my/data")
    call(preset, "paper", "--force")
    assert load_params("params.yaml").dataset.path is None


def test_parameters_of_an_older_version_make_way_once_git_has_them(checkout):
    change("train", batch=3)
    del_runtime = YAML().load((checkout / "params.yaml").read_text())
    del del_runtime["runtime"]
    with (checkout / "params.yaml").open("w") as handle:
        YAML().dump(del_runtime, handle)
    commit()
    assert "train.batch: 3 -> " in call(preset, "phantom")
    assert load_params("params.yaml").runtime.workers == 0


def test_a_missing_parameter_file_is_written(checkout):
    (checkout / "params.yaml").unlink()
    call(preset, "phantom")
    assert load_params("params.yaml").dataset.source == "phantom"


def test_what_cannot_be_is_one_line(checkout, tmp_path_factory, monkeypatch):
    with pytest.raises(UserError, match="no preset 'papre'; there are phantom, 3dce"):
        whole_preset("papre")
    (checkout / "presets/mine.yaml").write_text("train:\n  epoch: 3\n")
    with pytest.raises(UserError, match=r"mine\.yaml: train\.epoch: unknown parameter"):
        whole_preset("mine")
    (checkout / "presets/mine.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"mine\.yaml: not a parameter file"):
        whole_preset("mine")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(UserError, match=r"presets: no presets there; change to the folder that holds dvc\.yaml"):
        preset_names()
