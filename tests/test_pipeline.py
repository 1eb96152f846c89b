"""The whole pipeline by `dvc repro` on a tiny phantom, in a clone: what runs, what doesn't, and what it leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

TINY = {
    "dataset": {"parts": ["01", "02"]},
    "phantom": {"patients_per_part": 4, "key_slices_per_patient": 2, "image_size": 128},
    "preprocess": {"image_size": 64},
    "anchors": {"generations": 3, "population": 4},
    "network": {"channels": 8, "head_depth": 1, "head_channels": 8},
    "train": {"epochs": 2, "batch_size": 4, "precision": "32"},
    "evaluate": {"bootstrap": 20, "report_slices": 4},
    "runtime": {"device": "cpu", "workers": 1},
}
OUTPUTS = [
    "data/lesions.csv",
    "data/anchors.json",
    "data/model.pt",
    "data/detections.csv",
    "data/heatmaps.npz",
    "report/index.html",
    "metrics/lesions.json",
    "metrics/masks.json",
    "metrics/masks.png",
    "metrics/anchors.json",
    "metrics/train.csv",
    "metrics/detect.json",
    "metrics/scores.json",
    "metrics/froc.csv",
]


class Clone:
    """A clone of the working tree with its own DVC cache, and the commands that a user runs in it."""

    def __init__(self, root, folder):
        self.path = folder / "clone"
        tracked = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=root, capture_output=True, text=True
        )
        for name in tracked.stdout.splitlines():
            if (root / name).is_file():
                (self.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, self.path / name)
        (self.path / "dvc.lock").unlink(missing_ok=True)
        self.environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "PYTHONPATH": str(self.path),
            "LESIONPIPE_SCRATCH": str(folder / "scratch"),
            "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
        }
        self.change(TINY)
        for words in ("init -q", "config user.email a@b.example", "config user.name a", "add -A", "commit -qm start"):
            self.run("git", *words.split())

    def run(self, *words, code=0):
        done = subprocess.run(words, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def change(self, values):
        yaml = YAML()
        content = yaml.load((self.path / "params.yaml").read_text())
        for section, pairs in values.items():
            content[section].update(pairs)
        with (self.path / "params.yaml").open("w") as handle:
            yaml.dump(content, handle)

    def ran(self, output):
        """Names of the stages that ran, without the matrix part."""
        lines = [line for line in output.splitlines() if line.startswith("Running stage")]
        return [line.split("'")[1].split("@")[0] for line in lines]


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    clone = Clone(root, tmp_path_factory.mktemp("pipeline"))
    clone.first = clone.ran(clone.run("dvc", "repro"))
    return clone


def test_one_command_runs_every_stage_and_leaves_every_output(clone):
    stages = YAML(typ="safe").load((clone.path / "dvc.yaml").read_text())["stages"]
    assert set(clone.first) == set(stages) - {"listing"}  # which is for extracted folders only
    for name in OUTPUTS:
        assert (clone.path / name).stat().st_size > 0, name
    assert not list(clone.path.rglob("*.partial"))


def test_the_numbers_agree_with_each_other(clone):
    scores = json.loads((clone.path / "metrics/scores.json").read_text())["test"]
    lesions = pd.read_csv(clone.path / "data/lesions.csv")
    assert scores["lesions"] == (lesions["split"] == "test").sum()
    assert scores["images"] == lesions.loc[lesions["split"] == "test", "file_name"].nunique()
    rates = [scores[f"sensitivity_at_{rate}"] for rate in ("0.5", "1", "2", "4", "8", "16")]
    assert rates == sorted(rates)
    masks = pd.concat([pd.read_csv(f) for f in sorted((clone.path / "data/masks").glob("*.csv"))])
    assert sorted(masks["lesion"]) == sorted(lesions["lesion"])


def test_a_second_run_does_nothing(clone):
    assert clone.ran(clone.run("dvc", "repro")) == []


def test_a_changed_evaluation_reruns_the_evaluation_alone(clone):
    clone.change({"evaluate": {"operating_fp": 2.0}})
    assert clone.ran(clone.run("dvc", "repro")) == ["evaluate"]


def test_a_comment_in_the_froc_code_never_retrains(clone):
    with (clone.path / "lesionpipe/evaluation/froc.py").open("a") as handle:
        handle.write("# a comment\n")
    assert clone.ran(clone.run("dvc", "repro")) == ["evaluate"]


def test_machine_facts_rerun_nothing(clone):
    clone.change({"runtime": {"workers": 2}})
    assert clone.ran(clone.run("dvc", "repro")) == []


def test_a_bad_parameter_is_refused_in_one_line_before_any_work(clone):
    before = (clone.path / "metrics/scores.json").read_bytes()
    clone.change({"evaluate": {"iou": 7}})
    output = clone.run("dvc", "repro", code=255)
    assert "params.yaml: evaluate.iou = 7" in output
    assert "Traceback" not in output
    clone.change({"evaluate": {"iou": 0.5}})
    clone.run("dvc", "checkout", "--force", "report")
    clone.run("dvc", "repro")
    assert (clone.path / "metrics/scores.json").read_bytes() == before


def test_an_experiment_is_one_command_and_compares_with_the_workspace(clone):
    clone.run("git", "add", "-A")
    clone.run("git", "commit", "-qm", "run")
    output = clone.run("dvc", "exp", "run", "--name", "loose", "-S", "evaluate.iou=0.3")
    assert clone.ran(output) == ["evaluate"]
    assert "loose" in clone.run("dvc", "exp", "list")
    difference = json.loads(clone.run("dvc", "metrics", "diff", "--json", "HEAD", "loose"))
    assert any("scores.json" in name for name in difference.get("diff", difference))
