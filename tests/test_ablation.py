"""The rows of the ablation: their runs as experiments, and their table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from dvc.utils.serialize import modify_yaml
from ruamel.yaml import YAML
from small_set import write_small_set

from lesionpipe.commands.ablation import ablation
from lesionpipe.commands.ablation_table import ablation_table
from lesionpipe.commands.row_settings import ASIDE
from lesionpipe.core.errors import UserError

RATES = ("0.5", "1", "2", "4", "8", "16")  # false positives per image


def test_the_table_by_hand():
    """Row a: three seeds, 61.2 ± 1.5 at 4 FP; row b: one seed; row c: not run; b - a on seed 0."""

    def row(seeds, precision, **numbers):
        return {"seeds": seeds, "at": dict.fromkeys(RATES, numbers), "average_precision": precision}

    a = row([0, 1, 2], {"mean": 0.4, "spread": 0.01}, mean=0.6123, spread=0.0154, low=0.5, high=0.7)
    b = row([0], {"mean": 0.5, "spread": None}, mean=0.7, spread=None, low=None, high=None)
    step = {"before": "a", "after": "b", "seeds": [0]}
    step["at"] = {rate: {"difference": 0.0877, "low": -0.01, "high": 0.2, "p": 0.0619} for rate in RATES}
    step["at"]["0.5"] = {"difference": -0.02, "low": None, "high": None, "p": None}
    scores = {"images": 2, "lesions": 1, "patients": 2, "iou": 0.5, "noisy": "keep", "draws": 1000}
    scores |= {"rows": {"a": a, "b": b, "c": None}, "steps": [step]}
    lines = ablation_table(scores).splitlines()
    assert "1 lesions on 2 slices of 2 patients, IoU 0.5, lesions.noisy keep" in lines[0]
    assert lines[2:7] == [
        "| row | seeds | 0.5 FP | 1 FP | 2 FP | 4 FP | 8 FP | 16 FP | AP@0.5 |",
        "|---|---|---|---|---|---|---|---|---|",
        "| a | 0, 1, 2 |" + " 61.2 ± 1.5 |" * 3 + " 61.2 ± 1.5 (50.0–70.0) |" + " 61.2 ± 1.5 |" * 2 + " 40.0 ± 1.0 |",
        "| b | 0 |" + " 70.0 |" * 6 + " 50.0 |",
        "| c |" + " – |" * 8,
    ]
    assert lines[-3] == "| step | seeds | 0.5 FP | p | 4 FP | p |"
    assert lines[-1] == "| b − a | 0 | -2.0 (– … –) | – | +8.8 (-1.0 … +20.0) | 0.062 |"


PIPELINE = """
stages:
  evaluate:
    cmd: {python} stage.py
    deps: [stage.py]
    params: [anchors.use, evaluate.seed, train.epochs, train.seed]
    outs: [data/detections.csv]
    metrics:
    - scores.json: {{cache: false}}
"""
# Of the three test lesions, seed 0 finds one, seed 1 two, seed 2 none; with the paper's anchors one more each.
STAGE = """
import json, os, subprocess, sys, time
from pathlib import Path
from ruamel.yaml import YAML
params = YAML(typ="safe").load(open("params.yaml"))
if params["train"]["epochs"] == 7:
    raise SystemExit("fails")
if params["train"]["epochs"] == 9:
    open("running", "w").write(str(os.getpid()))
    time.sleep(60)
value = params["evaluate"]["seed"] / 100 + (params["anchors"]["use"] == "paper")
json.dump({"test": {"sensitivity_at_4": value}}, open("scores.json", "w"))
hits = [(5, "10,10,29,29"), (6, "10,10,29,29"), (6, "34,34,53,53")]
count = {0: 1, 1: 2, 2: 0}[params["train"]["seed"]] + (params["anchors"]["use"] == "paper")
header = "split,file_name,x1_original_px,y1_original_px,x2_original_px,y2_original_px,score"
rows = [f"test,00000{patient}_01_01_010.png,{box},0.9" for patient, box in hits[:count]]
Path("data/detections.csv").write_text("\\n".join([header, *rows]) + "\\n")
print("trained")
"""
ROW = {"original": {"anchors.use": "paper"}}
TWO_ROWS = {"original": {"anchors.use": "default"}, "better": {"anchors.use": "paper"}}


def use_rows(monkeypatch, rows, **table):
    """`rows` are the only ones; `table` names the row that one is compared with."""
    monkeypatch.setattr("lesionpipe.commands.ablation.ROWS", rows)
    monkeypatch.setattr("lesionpipe.commands.ablation.PAPER", dict.fromkeys(rows) | table)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A DVC repository of one quick stage, of whose ablation one row is run."""
    folder = tmp_path / "toy"
    folder.mkdir()
    monkeypatch.chdir(folder)
    use_rows(monkeypatch, ROW)
    write_small_set(folder)
    (folder / "data/detections.csv").unlink()
    (folder / "dvc.yaml").write_text(PIPELINE.format(python=sys.executable))
    (folder / "stage.py").write_text(STAGE)
    git("init", "-q")
    git("config", "user.email", "t@example.org")
    git("config", "user.name", "t")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], check=True)
    (folder / "data/.gitignore").write_text("/detections.csv\n")
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
    assert "| original | 0 | 66.7 | 66.7 | 66.7 | 66.7 (" in capsys.readouterr().out
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


def test_what_is_finished_is_not_run_again_unless_parameters_or_code_changed_or_it_is_forced(toy, capfd):
    ablation()
    assert "trained" in capfd.readouterr().out
    change(runtime__workers=3)
    ablation()
    printed = capfd.readouterr().out
    assert "original: finished with these parameters, not run again" in printed and "$ dvc" not in printed
    ablation(force=True)
    assert "$ dvc exp run --name original.new" in capfd.readouterr().out
    (toy / "stage.py").write_text(STAGE + "\n# changed\n")
    ablation(only_table=True)
    assert "original ran with other code than the workspace's: stage.py" in capfd.readouterr().out
    ablation()
    printed = capfd.readouterr().out
    assert "trained" in printed and "other code" not in printed
    change(train__epochs=3)
    with pytest.raises(
        UserError, match=r"no row .* \(original \(run with another train.epochs\)\); run `lesionpipe abl"
    ):
        ablation(only_table=True)


def test_rows_with_three_seeds_by_hand(toy, monkeypatch, capfd):
    """Of three lesions original finds 1, 2, 0, better 2, 3, 1: means 1/3 and 2/3, spread 1/3, each step 1/3."""
    use_rows(monkeypatch, TWO_ROWS, better="original")
    before = (toy / "params.yaml").read_bytes()
    ablation()
    ablation(only_table=True, seeds=3)
    missing = "; ".join(f"{row}-seed{seed} (not run)" for seed in (1, 2) for row in TWO_ROWS)
    assert f"missing: {missing}" in capfd.readouterr().out
    ablation(seeds=3, as_json=True)
    printed = capfd.readouterr()
    found = json.loads(printed.out)
    assert printed.err.count("trained") == 4 and printed.err.count("not run again") == 2
    assert (toy / "params.yaml").read_bytes() == before
    assert {name for _, name in experiments()} == {*TWO_ROWS, *(f"{row}-seed{s}" for s in (1, 2) for row in TWO_ROWS)}
    at = {row: found["rows"][row]["at"]["4"] for row in TWO_ROWS}
    assert (at["original"]["mean"], at["original"]["spread"]) == pytest.approx((1 / 3, 1 / 3))
    assert (at["better"]["mean"], at["better"]["spread"]) == pytest.approx((2 / 3, 1 / 3))
    assert at["original"]["low"] < 1 / 3 < at["original"]["high"]
    (step,) = found["steps"]
    assert (step["before"], step["after"], step["seeds"]) == ("original", "better", [0, 1, 2])
    assert step["at"]["4"]["difference"] == pytest.approx(1 / 3) and 0 < step["at"]["4"]["p"] <= 1
    assert (found["missing"], found["remarks"], found["lesions"], found["patients"]) == ({}, [], 3, 2)
    ablation(only_table=True, seeds=3)
    printed = capfd.readouterr().out
    assert "| original | 0, 1, 2 | 33.3 ± 33.3 |" in printed and "| better − original | 0, 1, 2 | +33.3 (" in printed


def test_rows_are_not_spread_over_two_commits(toy, monkeypatch):
    commits = iter(["a" * 40, "b" * 40])
    monkeypatch.setattr("lesionpipe.commands.ablation.head_commit", lambda: next(commits))
    with pytest.raises(UserError, match="HEAD has moved away from aaaaaaa, to which the finished rows belong"):
        ablation()


def test_the_split_that_is_compared_must_be_detected(toy):
    change(detect__splits=["val"])
    with pytest.raises(UserError, match=r"detect\.splits lacks test"):
        ablation()


def test_rows_of_other_commits_stay(toy):
    change(evaluate__seed=1)
    ablation()
    git("commit", "-qam", "second")
    change(evaluate__seed=2)
    ablation()
    assert experiments() == {("first", "original"): 1.01, ("second", "original"): 1.02}


def started(toy):
    """An ablation in a process of its own whose stage runs for a minute, and the number of the stage's process."""
    program = f"from lesionpipe.commands import ablation\nablation.ROWS, ablation.PAPER = {ROW}, {dict.fromkeys(ROW)}\n"
    program += "from lesionpipe.core.errors import run\nrun(ablation.ablation)"
    checkout = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}  # the installed package may be another's
    running = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, env=checkout)
    while not (toy / "running").exists() or not (toy / "running").read_text():
        assert running.poll() is None
        time.sleep(0.05)
    return running, int((toy / "running").read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_ablation_restores_the_parameters_and_leaves_no_process(toy, number):
    change(train__epochs=9)
    before = (toy / "params.yaml").read_bytes()
    running, stage = started(toy)
    assert (toy / "params.yaml").read_bytes() != before
    running.send_signal(number)
    assert running.wait(30) == 130
    assert (toy / "params.yaml").read_bytes() == before
    with pytest.raises(ProcessLookupError):
        os.kill(stage, 0)


def test_after_a_kill_the_parameters_come_back(toy, capsys):
    """SIGKILL ends the ablation alone; its row goes on, and no other may start meanwhile."""
    change(train__epochs=9)
    before = (toy / "params.yaml").read_bytes()
    running, stage = started(toy)
    running.kill()
    running.wait()
    left = (toy / "params.yaml").read_bytes()
    assert left != before
    with pytest.raises(UserError, match=r"a row still runs in .*toy"):
        ablation()
    with pytest.raises(UserError, match=r"original \(not run\)"):
        ablation(only_table=True)
    assert (toy / "params.yaml").read_bytes() == left
    os.killpg(os.getpgid(stage), signal.SIGKILL)
    while_runs(stage)
    with pytest.raises(UserError, match=r"original \(not run\)"):
        ablation(only_table=True)
    assert "params.yaml: as it was before a row that was killed" in capsys.readouterr().err
    assert (toy / "params.yaml").read_bytes() == before


def while_runs(process):
    """Wait for the end of a process that isn't our child."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {process} still runs")


def test_after_a_kill_parameters_that_were_changed_since_stay(toy):
    with pytest.raises(UserError, match="not run"):
        ablation(only_table=True)
    change(train__epochs=5)
    ASIDE.write_text(json.dumps({"text": "old", "row": {"train.epochs": 4}}))
    with pytest.raises(UserError, match="not run"):
        ablation(only_table=True)
    assert "epochs: 5" in (toy / "params.yaml").read_text() and not ASIDE.exists()


TWO_STAGES = """
stages:
  train:
    cmd: {python} train.py
    deps: [train.py]
    params: [train.epochs]
    outs: [data/model]
    metrics:
    - train.json: {{cache: false}}
  evaluate:
    cmd: {python} stage.py
    deps: [stage.py, data/model]
    params: [anchors.use, detect.calibrate, evaluate.seed, train.epochs, train.seed]
    outs: [data/detections.csv]
    metrics:
    - scores.json: {{cache: false}}
"""
CALIBRATION = {"with": {"detect.calibrate": "true"}, "without": {"detect.calibrate": "false"}, "plain": {}}


def test_rows_that_only_detect_differently_share_a_training_and_budgets_their_rows(toy, monkeypatch, capfd):
    """What a row doesn't name is as in params.yaml, also after a row that has set it."""
    use_rows(monkeypatch, CALIBRATION, without="with")
    (toy / "dvc.yaml").write_text(TWO_STAGES.format(python=sys.executable))
    (toy / "train.py").write_text(
        "open('train.json', 'w').write('{}')\nopen('data/model', 'w').write('m')\nprint('fitted')"
    )
    (toy / "data/.gitignore").write_text("/detections.csv\n/model\n")
    git("add", "-A")
    git("commit", "-qm", "two stages")
    ablation(rows=["without", "plain"])
    printed = capfd.readouterr().out
    assert (printed.count("fitted"), printed.count("trained")) == (1, 2)
    assert "calibrate: true" in git("show", f"{reference('plain')}:params.yaml")
    ablation(settings=["train.epochs=8"])
    printed = capfd.readouterr().out
    assert (printed.count("fitted"), printed.count("not run again")) == (1, 0)
    assert "| with − " not in printed and "| without − with | 0 | +0.0 (+0.0 … +0.0) |" in printed
    assert {name for _, name in experiments()} == {
        "without",
        "plain",
        *(f"{row}-train.epochs=8" for row in CALIBRATION),
    }
    ablation(settings=["train.epochs=8"], rows=["without"])
    assert "without-train.epochs=8: finished with these parameters" in capfd.readouterr().out
    ablation(only_table=True)
    assert "missing: with (not run)" in capfd.readouterr().out


def reference(name):
    (found,) = git("for-each-ref", "--format=%(refname)", f"refs/exps/**/{name}").split()
    return found


def test_an_unknown_row_or_a_setting_without_a_value_is_refused(toy):
    with pytest.raises(UserError, match="--row p3: no row of this table; it has original"):
        ablation(rows=["p3"])
    with pytest.raises(UserError, match=r"--set train\.epochs: give NAME=VALUE"):
        ablation(settings=["train.epochs"])


def test_without_a_repository_it_is_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for only_table in (True, False):
        with pytest.raises(UserError, match=r"not the folder of a DVC pipeline in Git; change to the one that holds"):
            ablation(only_table=only_table)
