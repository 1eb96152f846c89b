"""The whole pipeline by `dvc repro` on a tiny phantom, in a clone: what runs, what doesn't, and what it leaves.

The clone shares the environment of this checkout, whose editable installation leads to this checkout; nothing but the
working folder leads a stage to the clone's own code.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from ruamel.yaml import YAML

TINY = {
    "dataset": {"parts": ["01", "02"]},
    "phantom": {"patients_per_part": 4, "extra_test_patients": 0, "key_slices_per_patient": 2, "image_size": 128},
    "preprocess": {"image_size": 64},
    "anchors": {"generations": 3, "population": 4},
    "network": {"channels": 8, "head_depth": 1, "head_channels": 8},
    "train": {"epochs": 2, "batch_size": 4, "precision": "32"},
    "evaluate": {"bootstrap": 20, "report_slices": 4},
    "runtime": {"device": "cpu", "workers": 1},
}
OUTPUTS = [
    "data/phantom/01/DL_info.csv",
    "data/inventory/01.csv",
    "data/lesions.csv",
    "data/lesions_by_part/02.csv",
    "data/slices/02.npy",
    "data/masks/02.npz",
    "data/anchors.json",
    "data/model.safetensors",
    "data/detections.csv",
    "data/heatmaps.npz",
    "report/index.html",
    "metrics/lesions.json",
    "metrics/masks.json",
    "metrics/masks.png",
    "metrics/anchors.json",
    "metrics/train.csv",
    "metrics/environment.json",
    "metrics/detect.json",
    "metrics/scores.json",
    "metrics/froc.csv",
]


class Clone:
    """A clone of the working tree with its own DVC cache, and the commands that a user runs in it."""

    def __init__(self, path, scratch):
        self.path = path
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment = {
            **kept,
            "OMP_NUM_THREADS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "LESIONPIPE_SCRATCH": str(scratch),
            "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"],
        }

    @classmethod
    def of_working_tree(cls, root, folder):
        clone = cls(folder / "clone", folder / "scratch")
        words = ["git", "ls-files", "-co", "--exclude-standard"]
        for name in subprocess.run(words, cwd=root, capture_output=True, text=True).stdout.splitlines():
            if (root / name).is_file():
                (clone.path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(root / name, clone.path / name)
        (clone.path / "dvc.lock").unlink(missing_ok=True)
        clone.change(TINY)
        clone.run("git", "init", "-q")
        clone.commit()
        return clone

    def run(self, *words, code=0):
        done = subprocess.run(words, cwd=self.path, env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + done.stderr

    def commit(self):
        self.run("git", "add", "-A")
        self.run("git", "-c", "user.name=a", "-c", "user.email=a@b.example", "commit", "-qm", "x")

    def change(self, values):
        yaml = YAML()
        content = yaml.load((self.path / "params.yaml").read_text())
        for section, pairs in values.items():
            content[section].update(pairs)
        with (self.path / "params.yaml").open("w") as handle:
            yaml.dump(content, handle)

    def edit(self, name, old, new):
        """Replace the first `old` in a file of code."""
        text = (self.path / name).read_text()
        assert old in text, f"{name}: no {old}"
        (self.path / name).write_text(text.replace(old, new, 1))

    def repro(self, *words):
        """Names of the stages that `dvc repro` ran, without the matrix part."""
        return self.ran(self.run("dvc", "repro", *words))

    @staticmethod
    def ran(output):
        lines = [line for line in output.splitlines() if line.startswith("Running stage")]
        return [line.split("'")[1].split("@")[0] for line in lines]

    def changes(self):
        """What `git status` lists."""
        return self.run("git", "status", "--short")

    def scores(self):
        return json.loads((self.path / "metrics/scores.json").read_text())


@pytest.fixture(scope="module")
def clone(root, tmp_path_factory):
    clone = Clone.of_working_tree(root, tmp_path_factory.mktemp("pipeline"))
    clone.first = clone.repro()
    return clone


def test_one_command_runs_every_stage_and_leaves_every_output(clone):
    stages = YAML(typ="safe").load((clone.path / "dvc.yaml").read_text())["stages"]
    assert set(clone.first) == set(stages)
    for name in OUTPUTS:
        assert (clone.path / name).stat().st_size > 0, name
    assert not list(clone.path.rglob("*.partial"))
    clone.commit()


def test_the_numbers_agree_with_each_other(clone):
    scores = clone.scores()["test"]
    lesions = pd.read_csv(clone.path / "data/lesions.csv")
    assert scores["lesions"] == (lesions["split"] == "test").sum()
    assert scores["images"] == lesions.loc[lesions["split"] == "test", "file_name"].nunique()
    rates = [scores[f"sensitivity_at_{rate}"] for rate in ("0.5", "1", "2", "4", "8", "16")]
    assert rates == sorted(rates)
    masks = pd.concat([pd.read_csv(f) for f in sorted((clone.path / "data/masks").glob("*.csv"))])
    assert sorted(masks["lesion"]) == sorted(lesions["lesion"])


def test_a_second_run_does_nothing(clone):
    assert clone.repro() == []
    assert clone.changes() == ""


def test_two_runs_with_the_same_inputs_leave_nothing_to_commit(clone):
    """Times are no tracked outputs."""
    stages = ["lesions", "mask_quality", "anchors", "train", "detect", "evaluate"]
    assert clone.repro("-f", "-s", *stages) == stages
    assert clone.changes() == ""


def test_what_changes_no_result_leaves_training_up_to_date(clone):
    """A new parameter of `evaluate`, another error text, another progress bar."""
    clone.edit("lesionpipe/params/sections.py", "    bootstrap: ", "    new_rate: float\n    bootstrap: ")
    clone.edit("params.yaml", "  bootstrap: ", "  new_rate: 1.0\n  bootstrap: ")
    clone.edit("lesionpipe/core/errors.py", "no space left on the disk", "the disk is full")
    clone.edit("lesionpipe/core/progress.py", "dynamic_ncols=live", "dynamic_ncols=live, ascii=True")
    status = json.loads(clone.run("dvc", "status", "--json"))
    assert set(status) == {"evaluate"}, status
    assert "up to date" in clone.run("dvc", "status", "train")
    assert clone.repro() == ["evaluate"]
    clone.run("git", "checkout", ".")
    clone.repro()


def test_a_changed_evaluation_or_its_code_reruns_the_evaluation_alone(clone):
    clone.change({"evaluate": {"operating_fp": 2.0}})
    with (clone.path / "lesionpipe/evaluate/froc.py").open("a") as handle:
        handle.write("# a comment\n")
    assert clone.repro() == ["evaluate"]
    clone.commit()


def test_facts_of_the_computer_rerun_nothing(clone):
    clone.change({"runtime": {"workers": 2}})
    assert clone.repro() == []


def test_a_bad_parameter_is_refused_in_one_line_before_any_work(clone):
    before = (clone.path / "metrics/scores.json").read_bytes()
    clone.change({"evaluate": {"iou": 7}})
    output = clone.run("dvc", "repro", code=255)
    assert "params.yaml: evaluate.iou = 7" in output
    assert "Traceback" not in output
    clone.change({"evaluate": {"iou": 0.5}})
    clone.run("dvc", "checkout", "--force", "report")
    assert clone.repro() == []
    assert (clone.path / "metrics/scores.json").read_bytes() == before


def test_an_experiment_changes_one_line_and_compares_with_the_workspace(clone):
    clone.commit()
    output = clone.run("dvc", "exp", "run", "--name", "loose", "-S", "evaluate.iou=0.3")
    assert clone.ran(output) == ["evaluate"]
    assert "loose" in clone.run("dvc", "exp", "list")
    difference = json.loads(clone.run("dvc", "metrics", "diff", "--json", "HEAD", "loose"))
    assert any("scores.json" in name for name in difference.get("diff", difference))
    assert clone.run("git", "diff", "--numstat", "--", "params.yaml").split()[:2] == ["1", "1"]
    clone.run("git", "checkout", ".")
    clone.run("dvc", "checkout", "--quiet")


def test_a_queued_experiment_runs_its_own_code(clone):
    """The workspace holds other code when the queue starts; the numbers, and the run cache, are the experiment's."""
    name = re.search(r'^MEAN_NAME = "(.+)"$', (clone.path / "lesionpipe/evaluate/scores.py").read_text(), re.M)[1]
    assert name in clone.scores()["test"]
    clone.edit("lesionpipe/evaluate/scores.py", f'MEAN_NAME = "{name}"', 'MEAN_NAME = "mean_of_code_b"')
    clone.run("dvc", "exp", "run", "--queue", "--name", "code-b")
    clone.run("git", "checkout", ".")
    clone.run("dvc", "queue", "start")
    deadline = time.monotonic() + 300
    while "code-b" not in clone.run("dvc", "exp", "list", "--name-only"):
        assert time.monotonic() < deadline and "Failed" not in clone.run("dvc", "queue", "status")
        time.sleep(1)
    (ref,) = [r for r in clone.run("git", "for-each-ref", "--format=%(refname)").split() if r.endswith("/code-b")]
    assert "mean_of_code_b" in clone.run("git", "show", f"{ref}:metrics/scores.json")
    clone.edit("lesionpipe/evaluate/scores.py", f'MEAN_NAME = "{name}"', 'MEAN_NAME = "mean_of_code_b"')
    assert clone.repro() == []  # from the run cache
    assert "mean_of_code_b" in clone.scores()["test"] and name not in clone.scores()["test"]
    clone.run("git", "checkout", ".")
    assert clone.repro() == []
    assert name in clone.scores()["test"]


def test_parts_that_come_and_go_leave_the_lock_of_before_and_a_pulled_clone_runs_nothing(clone, tmp_path):
    lock = (clone.path / "dvc.lock").read_text()
    clone.change({"dataset": {"parts": ["01", "02", "03"]}})
    assert {"phantom", "train", "evaluate"} <= set(clone.repro())
    clone.change({"dataset": {"parts": ["01", "02"]}})
    assert "train" not in clone.repro()
    without = {name: stage for name, stage in locked(clone).items() if not name.endswith("@03")}
    assert without == YAML(typ="safe").load(lock)["stages"]
    assert not list(clone.path.glob("data/*/03*"))

    clone.run("git", "checkout", "dvc.lock")
    clone.run("dvc", "remote", "add", "-d", "store", str(tmp_path / "store"))
    clone.commit()
    clone.run("dvc", "push", "--quiet")
    clone.run("git", "clone", "-q", str(clone.path), str(tmp_path / "fresh"))
    fresh = Clone(tmp_path / "fresh", tmp_path / "scratch")
    fresh.run("dvc", "pull", "--quiet")
    assert "up to date" in fresh.run("dvc", "status")
    assert fresh.repro() == []
    assert fresh.changes() == ""


def locked(clone):
    return YAML(typ="safe").load((clone.path / "dvc.lock").read_text())["stages"]


def test_an_archive_may_go_when_it_is_preprocessed(clone):
    """The phantom's archives as if they were DeepLesion's: given, compared with a table of their own, then deleted."""
    before = {part: (clone.path / f"data/slices/{part}.npy").read_bytes() for part in ("01", "02")}
    archives = clone.path / "scratch/archives"
    archives.mkdir(parents=True)
    rows = []
    for part in ("01", "02"):
        found = shutil.copy(clone.path / f"data/phantom/{part}/Images_png_{part}.zip", archives)
        content = Path(found).read_bytes()
        md5 = hashlib.md5(content).hexdigest()
        rows.append({"name": Path(found).name, "url": "https://a.example/", "bytes": len(content), "md5": md5})
    tables = [pd.read_csv(clone.path / f"data/phantom/{part}/DL_info.csv") for part in ("01", "02")]
    pd.concat(tables).to_csv(clone.path / "data/inputs/annotations/mine.csv", index=False)
    pd.DataFrame(rows).to_csv(clone.path / "archives.tsv", sep="\t", index=False)
    annotations = {"path": str(archives), "annotations": "data/inputs/annotations/mine.csv"}
    clone.change({"dataset": {"source": "archives"} | annotations, "download": {"archives": "archives.tsv"}})
    assert set(clone.repro("preprocess")) == {"phantom", "download", "lesions"}  # the slices in it are the same
    assert clone.repro("-f", "-s", "preprocess@01", "preprocess@02") == ["preprocess", "preprocess"]
    assert {part: (clone.path / f"data/slices/{part}.npy").read_bytes() for part in ("01", "02")} == before

    shutil.rmtree(archives)
    assert clone.repro("preprocess") == []
    output = clone.run("dvc", "repro", "-f", "-s", "preprocess@01", code=255)
    assert "Images_png_01.zip" in output and "Traceback" not in output
