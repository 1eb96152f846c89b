"""The paper's ablation (Table 1): its four rows as named DVC experiments, with one or more seeds, and their table.

An experiment belongs to the commit on which it ran; DVC writes its reference once all stages are done.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from dvc.utils.flatten import flatten
from ruamel.yaml import YAML

from lesionpipe.commands.ablation_table import ablation_table, score_rows
from lesionpipe.commands.preset import KEPT, Settings, differing
from lesionpipe.commands.scoring import print_result
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.params import load_params

PARAMS, PIPELINE = Path("params.yaml"), Path("dvc.yaml")
UNFINISHED = ".new"  # behind the name of a row that is run again, until it is done
STDERR = 2  # file descriptor
STOP_TIMEOUT_S = 60  # for an experiment that is stopped to store its state
_load = YAML(typ="safe", pure=True).load
# Each row moves the switches of the one before; what a row does not name is as in params.yaml.
SWITCHES = ("anchors.use", "network.levels", "network.mask_branch", "network.attention")
ROWS: dict[str, dict[str, str]] = {
    "original": dict(zip(SWITCHES, ("default", "P3-P7", "false", "false"), strict=True)),
    "anchor-optimisation": dict(zip(SWITCHES, ("searched", "P3-P7", "false", "false"), strict=True)),
    "dense-supervision": dict(zip(SWITCHES, ("searched", "P2-P6", "true", "false"), strict=True)),
    "attention-gate": dict(zip(SWITCHES, ("searched", "P2-P6", "true", "true"), strict=True)),
}


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
    seeds: Annotated[int, typer.Option(min=1, help="Runs per row, train.seed 0, 1, …; 1: that of params.yaml.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Also start what is finished with these parameters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; what runs print goes to stderr.")] = False,
) -> None:
    """Run the paper's four rows as named experiments and print their FROC side by side.

    What this commit has already with the same parameters and code is not run again. What it has with others is run
    again, and replaced when the new one is done. Mean, standard deviation between seeds, 95 % interval over patients
    and seeds, and a test of each row against the one before (docs/evaluate.md).
    """
    _require_dvc_repository()
    params = load_params(PARAMS)
    if "test" not in params.detect.splits:
        raise UserError("params.yaml: detect.splits lacks test, on which the rows are compared; add it")
    plan = planned_runs(seeds, _tracked(PARAMS.read_text(encoding="utf-8")))
    commit = head_commit()
    if not only_table:
        with _restored(PARAMS):
            for planned in plan:
                _run(planned, commit, force, as_json)
    finished, missing, remarks = _finished_runs(plan, commit)
    if not finished:
        raise UserError(
            f"no row has been run on this commit yet with these parameters ({_listed(missing)}); "
            f"run `lesionpipe ablation`"
        )
    scores = score_rows(list(ROWS), finished, params)
    missing_line = [f"missing: {_listed(missing)}"] if missing else []
    text = "\n\n".join([ablation_table(scores), *remarks, *missing_line])
    print_result({"commit": commit, "missing": missing, "remarks": remarks} | scores if as_json else text)


def planned_runs(seeds: int, present: Settings) -> list[PlannedRun]:
    """Every row with the first seed, then every row with the next: what is stopped early can be compared.

    With one seed it stays as it is in params.yaml, whose parameters are `present`.
    """
    plan = []
    for seed in range(seeds):
        for row, switches in ROWS.items():
            words = switches if seeds == 1 else {**switches, "train.seed": str(seed)}
            expected = present | {name: _load(word) for name, word in words.items()}
            name = f"{row}-seed{seed}" if seed else row
            plan.append(PlannedRun(row, expected["train.seed"], name, words, expected))
    return plan


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
    if _run_stoppable([sys.executable, "-m", *words], STDERR if as_json else None):
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


@contextlib.contextmanager
def _restored(path: Path) -> Iterator[None]:
    """The file has its present content again in the end: an experiment leaves its own settings behind.

    Requests to end (of a batch system, a closed terminal) unwind the program as Ctrl-C does.
    """

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # once is enough, there is much to clear up
        raise KeyboardInterrupt

    content = path.read_bytes()
    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        for number, handler in handlers.items():
            signal.signal(number, handler)


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


def _tracked(text: str) -> Settings:
    """Parameters from the text of a params.yaml, without those that say nothing of the result."""
    return {name: value for name, value in flatten(_load(text)).items() if not name.startswith(f"{KEPT}.")}


def _other_parameters(reference: str, expected: Settings) -> list[str]:
    """Names of the parameters with which an experiment did not run as `expected`."""
    return differing(_tracked(_output("git", "show", f"{reference}:./{PARAMS}")), expected)


def _other_code(reference: str) -> list[str]:
    """Files in Git, of those that stages depend on, that differ between an experiment and the workspace."""
    stages = _load(PIPELINE.read_text(encoding="utf-8"))["stages"].values()
    dependencies = {path for stage in stages for path in stage.get("deps", []) if "${" not in path}
    return _output("git", "diff", "--name-only", reference, "--", str(PIPELINE), *sorted(dependencies)).splitlines()


def _run_stoppable(words: list[str], output: int | None) -> int:
    """Exit code of a command, which is stopped with all that it has started when this process is."""
    process = subprocess.Popen(words, process_group=0, stdout=output)
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
