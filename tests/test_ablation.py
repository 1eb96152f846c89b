"""The paper's four rows: valid parameters, the README's commands, and the table that compares them."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML

from lesionpipe.commands.ablation import ROWS, ablation, ablation_table, row_command
from lesionpipe.core.errors import UserError
from lesionpipe.params import Params


def with_settings(root, settings):
    values = YAML(typ="safe", pure=True).load((root / "params.yaml").read_text())
    for name, value in settings.items():
        section, key = name.split(".")
        values[section][key] = YAML(typ="safe", pure=True).load(value)
    return Params.model_validate(values)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_is_valid_and_its_command_stands_in_the_readme(root, row):
    with_settings(root, ROWS[row])
    assert " ".join(row_command(row)) in (root / "README.md").read_text()


def test_the_rows_are_those_of_the_papers_table(root):
    rows = [with_settings(root, settings) for settings in ROWS.values()]
    assert [r.anchors.use for r in rows] == ["default", "searched", "searched", "searched"]
    assert [r.network.levels for r in rows] == ["P3-P7", "P3-P7", "P2-P6", "P2-P6"]
    assert [r.network.mask_branch for r in rows] == [False, False, True, True]
    assert [r.network.attention for r in rows] == [False, False, False, True]


def test_the_table_by_hand():
    found = {"original": {"metrics/scores.json:test.sensitivity_at_4": 0.6123, "val.sensitivity_at_4": 0.9}}
    lines = ablation_table(found).splitlines()
    assert lines[0] == "| row | 0.5 FP | 1 FP | 2 FP | 4 FP | 8 FP | 16 FP |"
    assert lines[2] == "| original | – | – | – | 61.2 | – | – |"
    assert lines[5] == "| attention-gate | – | – | – | – | – | – |"


PIPELINE = """
stages:
  evaluate:
    cmd: {python} stage.py
    deps: [stage.py]
    params: [anchors.use, evaluate.seed, train.epochs]
    metrics:
    - scores.json: {{cache: false}}
"""
STAGE = """
import json, os, subprocess, time
from ruamel.yaml import YAML
params = YAML(typ="safe").load(open("params.yaml"))
if params["train"]["epochs"] == 7:
    raise SystemExit("fails")
if params["train"]["epochs"] == 9:
    open("running", "w").write(str(os.getpid()))
    time.sleep(60)
value = params["evaluate"]["seed"] / 100 + (params["anchors"]["use"] == "paper")
json.dump({"test": {"sensitivity_at_4": value}}, open("scores.json", "w"))
"""
ROW = {"original": {"anchors.use": "paper"}}


@pytest.fixture
def toy(root, tmp_path, monkeypatch):
    """A DVC repository of one quick stage, of whose ablation one row is run."""
    folder = tmp_path / "toy"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("lesionpipe.commands.ablation.ROWS", ROW)
    shutil.copy(root / "params.yaml", folder)
    (folder / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (folder / "stage.py").write_text(STAGE)
    git("init", "-q")
    git("config", "user.email", "t@example.org")
    git("config", "user.name", "t")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    git("add", "-A")
    git("commit", "-qm", "first")
    return folder


def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout


def change(**values):
    with modify_yaml("params.yaml") as content:
        for name, value in values.items():
            section, key = name.split("__")
            content[section][key] = value


def experiments():
    """Score of every experiment by (its commit's message, its name)."""
    found = {}
    for ref in git("for-each-ref", "--format=%(refname)", "refs/exps").split():
        _, _, first, rest, name = ref.split("/") if ref.count("/") == 4 else [""] * 5
        if len(rest) == 38:
            message = git("log", "-1", "--format=%s", first + rest).strip()
            found[message, name] = YAML(typ="safe").load(git("show", f"{ref}:scores.json"))["test"]["sensitivity_at_4"]
    return found


def test_a_row_that_fails_leaves_the_finished_one_and_the_parameters(toy, capsys):
    change(evaluate__seed=1)
    ablation()
    assert experiments() == {("first", "original"): 1.01}
    assert "| original | – | – | – | 101.0 |" in capsys.readouterr().out
    change(train__epochs=7)
    before = (toy / "params.yaml").read_bytes()
    with pytest.raises(UserError, match="the row stopped"):
        ablation()
    assert experiments() == {("first", "original"): 1.01}
    assert (toy / "params.yaml").read_bytes() == before


def test_a_row_is_replaced_once_the_new_one_is_done(toy):
    for seed in (1, 2):
        change(evaluate__seed=seed)
        ablation()
        assert experiments() == {("first", "original"): 1 + seed / 100}


def test_rows_of_other_commits_stay(toy):
    change(evaluate__seed=1)
    ablation()
    git("commit", "-qam", "second")
    change(evaluate__seed=2)
    ablation()
    assert experiments() == {("first", "original"): 1.01, ("second", "original"): 1.02}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_ablation_restores_the_parameters_and_leaves_no_process(toy, number):
    change(train__epochs=9)
    before = (toy / "params.yaml").read_bytes()
    program = f"from lesionpipe.commands import ablation\nablation.ROWS = {ROW}\n"
    program += "from lesionpipe.core.errors import run\nrun(ablation.ablation)"
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    while not (toy / "running").exists() or not (toy / "running").read_text():
        assert running.poll() is None
        time.sleep(0.05)
    assert (toy / "params.yaml").read_bytes() != before
    stage = int((toy / "running").read_text())
    running.send_signal(number)
    assert running.wait(30) == 130
    assert (toy / "params.yaml").read_bytes() == before
    with pytest.raises(ProcessLookupError):
        os.kill(stage, 0)


def test_without_a_repository_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for only_table in (True, False):
        with pytest.raises(UserError, match=r"not the folder of a DVC pipeline in Git; change to the one that holds"):
            ablation(only_table)
