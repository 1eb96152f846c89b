"""Rows of the paper's ablation (Table 1), and finer ones, as named DVC experiments with one or more seeds.

An experiment belongs to the commit on which it ran; DVC writes its reference once all stages are done.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from dvc.utils.flatten import flatten, unflatten

from lesionpipe.commands.ablation_rows import FINER, PAPER, ROWS, Table
from lesionpipe.commands.ablation_table import ablation_table, score_rows
from lesionpipe.commands.preset import Settings, differing
from lesionpipe.commands.row_settings import PARAMS, load_yaml, own_params, row_settings, tracked
from lesionpipe.commands.scoring import print_result
from lesionpipe.core.errors import UserError
from lesionpipe.params import check_params, load_params

PIPELINE = Path("dvc.yaml")
UNFINISHED = ".new"  # behind the name of a row that is run again, until it is done
STDERR = 2  # file descriptor
STOP_TIMEOUT_S = 60  # for an experiment that is stopped to store its state
SEED = "train.seed"
NOT_IN_NAMES = re.compile(r"[^\w.=,+-]|\.(?!\w)")  # what Git refuses in the name of a reference


@dataclass(frozen=True)
class PlannedRun:
    """A row with a training seed."""

    row: str
    seed: int
    name: str
    switches: dict[str, str]  # what differs from params.yaml, as words of YAML
    expected: Settings


def ablation(
    only_table: Annotated[bool, typer.Option("--table", help="Only print what is finished.")] = False,
    finer: Annotated[
        bool, typer.Option("--finer", help="Finer rows: what the paper moves at once, told apart.")
    ] = False,
    rows: Annotated[list[str] | None, typer.Option("--row", help="Only this row; several times for several.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per row, train.seed 0, 1, …; 1: that of params.yaml.")] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of all rows, such as train.epochs=8; likewise."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also start what is finished with these parameters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; what runs print goes to stderr.")] = False,
) -> None:
    """Run the paper's four rows, or finer ones, as named experiments and print their FROC side by side.

    What this commit has already with the same parameters and code is not run again. What it has with others is run
    again, and replaced when the new one is done. Mean, standard deviation between seeds, 95 % interval over patients
    and seeds, and a test of each row against the one that it is compared with (docs/evaluate.md).
    """
    _require_dvc_repository()
    load_params(PARAMS)
    own = load_yaml(own_params(reading=only_table))
    params, table, words = check_params(own, PARAMS), _chosen(FINER if finer else PAPER, rows), _words(settings or [])
    if "test" not in params.detect.splits:
        raise UserError("params.yaml: detect.splits lacks test, on which the rows are compared; add it")
    plan = planned_runs(table, seeds, own, words)
    commit = head_commit()
    if not only_table:
        for planned in plan:
            _run(planned, commit, force, as_json)
    finished, missing, remarks = _finished_runs(plan, commit)
    if not finished:
        raise UserError(
            f"no row has been run on this commit yet with these parameters ({_listed(missing)}); "
            f"run `lesionpipe ablation`"
        )
    scores = score_rows(table, finished, params)
    missing_line = [f"missing: {_listed(missing)}"] if missing else []
    text = "\n\n".join([ablation_table(scores), *remarks, *missing_line])
    about = {"commit": commit, "set": words, "missing": missing, "remarks": remarks}
    print_result(about | scores if as_json else text)


def planned_runs(table: Table, seeds: int, own: dict, settings: dict[str, str]) -> list[PlannedRun]:
    """Every row with the first seed, then every row with the next: what is stopped early can be compared.

    `own`: what params.yaml holds; with one seed that stays as it is there. `settings`: parameters of all rows as words
    of YAML. A UserError where they can't be, or a row is the same as the one that it is compared with.
    """
    present, plan = tracked(own), []
    for name in settings:
        if name not in present:
            raise UserError(f"--set {name}: no parameter of params.yaml on which results depend")
        if setter := next((row for row in table if name in ROWS[row]), "--seeds" if name == SEED else None):
            raise UserError(f"--set {name}: {setter} sets it")
    for seed in range(seeds):
        for row in table:
            words = ROWS[row] | settings | ({} if seeds == 1 else {SEED: str(seed)})
            changes = {name: load_yaml(word) for name, word in words.items()}
            check_params(unflatten(flatten(own) | changes), f"row {row}")
            expected = present | changes
            plan.append(PlannedRun(row, expected[SEED], experiment_name(row, settings, seed), words, expected))
    of_rows = {planned.row: planned.expected for planned in plan[: len(table)]}
    for row, reference in table.items():
        if reference in of_rows and not differing(of_rows[row], of_rows[reference]):
            raise UserError(f"row {row} is the same as {reference} with these parameters; leave it out with --row")
    return plan


def experiment_name(row: str, settings: dict[str, str], seed: int) -> str:
    """Such as `p2`, `p2-seed1` or, with parameters of all rows, `p2-train.epochs=8-seed1`."""
    common = ",".join(f"{name}={settings[name]}" for name in sorted(settings))
    parts = [row, *([common] if common else []), *([f"seed{seed}"] if seed else [])]
    return NOT_IN_NAMES.sub("_", "-".join(parts))


def _chosen(table: Table, rows: list[str] | None) -> Table:
    if unknown := [row for row in rows or () if row not in table]:
        raise UserError(f"--row {unknown[0]}: no row of this table; it has {', '.join(table)}")
    return {row: reference for row, reference in table.items() if rows is None or row in rows}


def _words(settings: list[str]) -> dict[str, str]:
    """NAME=VALUE by name."""
    pairs = [setting.partition("=") for setting in settings]
    if wrong := ["".join(pair) for pair in pairs if not pair[1]]:
        raise UserError(f"--set {wrong[0]}: give NAME=VALUE, such as train.epochs=8")
    return {name.strip(): value.strip() for name, _, value in pairs}


def run_words(planned: PlannedRun) -> list[str]:
    """The `dvc exp run` command, as a list of words."""
    switches = [word for name, value in planned.switches.items() for word in ("-S", f"{name}={value}")]
    return ["dvc", "exp", "run", "--name", planned.name, *switches]


def _run(planned: PlannedRun, commit: str, force: bool, as_json: bool) -> None:
    """Run a row. An experiment of its name on this commit stays until the new one is done; others are left alone."""
    if head_commit() != commit:
        raise UserError(
            f"Git's HEAD has moved away from {commit[:7]}, to which the finished rows belong; "
            f"check that commit out to go on with them, or start again here"
        )
    existing, stream = _experiments(commit), sys.stderr if as_json else sys.stdout
    former, words, unfinished = existing.get(planned.name), run_words(planned), planned.name + UNFINISHED
    changed = not former or _other_parameters(former, planned.expected) or _other_code(former)
    if not changed and not force:
        print(f"{planned.name}: finished with these parameters, not run again", file=stream, flush=True)
        return
    if unfinished in existing:  # done, but not renamed by a run that was killed
        _output(sys.executable, "-m", "dvc", "exp", "remove", unfinished)
    if former:
        words[words.index(planned.name)] = unfinished
    print("$ " + " ".join(words), file=stream, flush=True)
    with row_settings(planned.expected) as lock:
        failed = _run_stoppable([sys.executable, "-m", *words], STDERR if as_json else None, lock)
    if failed:
        raise UserError("the row stopped, see above; finished stages are cached: the same command goes on from there")
    if former:
        _output(sys.executable, "-m", "dvc", "exp", "rename", "--force", unfinished, planned.name)


def _finished_runs(plan: list[PlannedRun], commit: str) -> tuple[dict[str, dict[int, str]], dict[str, str], list[str]]:
    """Experiments to be compared, by row and seed; why the other runs are missing; remarks about those compared.

    What ran with other parameters is not compared; what ran with other code is, with a remark.
    """
    experiments = _experiments(commit)
    found, missing, remarks = {}, {}, []
    for planned in plan:
        if (reference := experiments.get(planned.name)) is None:
            missing[planned.name] = "not run"
        elif other := _other_parameters(reference, planned.expected):
            missing[planned.name] = f"run with another {', '.join(other)}"
        else:
            found.setdefault(planned.row, {})[planned.seed] = reference
            if files := _other_code(reference):
                remarks.append(f"{planned.name} ran with other code than the workspace's: {', '.join(files)}")
    return found, missing, remarks


def _listed(missing: dict[str, str]) -> str:
    return "; ".join(f"{name} ({reason})" for name, reason in missing.items())


def _require_dvc_repository() -> None:
    known = subprocess.run(["git", "rev-parse", "--verify", "--quiet", "HEAD"], check=False, capture_output=True)
    if known.returncode or not PIPELINE.is_file() or not Path(".dvc").is_dir():
        raise UserError(f"{Path.cwd()}: not the folder of a DVC pipeline in Git; change to the one that holds dvc.yaml")


def head_commit() -> str:
    return _output("git", "rev-parse", "HEAD").strip()


def _experiments(commit: str) -> dict[str, str]:
    """Git reference by name of the finished experiments of a commit."""
    folder = f"refs/exps/{commit[:2]}/{commit[2:]}/"
    found = _output("git", "for-each-ref", "--format=%(refname)", folder).split()
    return {reference.removeprefix(folder): reference for reference in found}


def _other_parameters(reference: str, expected: Settings) -> list[str]:
    """Names of the parameters with which an experiment did not run as `expected`."""
    return differing(tracked(load_yaml(_output("git", "show", f"{reference}:./{PARAMS}"))), expected)


def _other_code(reference: str) -> list[str]:
    """Files in Git, of those that stages depend on, that differ between an experiment and the workspace."""
    stages = load_yaml(PIPELINE.read_text(encoding="utf-8"))["stages"].values()
    dependencies = {path for stage in stages for path in stage.get("deps", []) if "${" not in path}
    return _output("git", "diff", "--name-only", reference, "--", str(PIPELINE), *sorted(dependencies)).splitlines()


def _run_stoppable(words: list[str], output: int | None, lock: int) -> int:
    """Exit code of a command, which is stopped with all that it has started when this process is, and holds a lock."""
    process = subprocess.Popen(words, process_group=0, stdout=output, pass_fds=[lock])
    try:
        return process.wait()
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(process.pid, signal.SIGINT)
                process.wait(STOP_TIMEOUT_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)


def _output(*words: str) -> str:
    """What a short command prints; raises UserError with its complaint."""
    done = subprocess.run(words, check=False, capture_output=True, text=True)
    if done.returncode:
        shown = " ".join(words).removeprefix(f"{sys.executable} -m ")
        raise UserError(f"{shown}: {' '.join(done.stderr.split())}")
    return done.stdout
