"""The paper's ablation (Table 1): its four rows as named DVC experiments, with one or more seeds, and their table."""

import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml import YAML

from lesionpipe.commands.ablation_table import ablation_table, score_rows
from lesionpipe.commands.console import print_result
from lesionpipe.commands.experiments import (
    dvc_output,
    finished_experiments,
    head_commit,
    other_code,
    other_parameters,
    require_dvc_repository,
    run_stoppable,
    tracked_settings,
)
from lesionpipe.commands.preset import Settings
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.params import load_params

PARAMS = Path("params.yaml")
UNFINISHED = ".new"  # behind the name of a row that is run again, until it is done
STDERR = 2  # file descriptor
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
    """A row with a training seed; `settings` are the parameters that differ from params.yaml, as words of YAML."""

    row: str
    seed: int
    name: str
    settings: dict[str, str]


def ablation(
    only_table: Annotated[bool, typer.Option("--table", help="Only print what is finished.")] = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="Runs per row, with train.seed 0, 1, …; 1: with that of params.yaml.")
    ] = 1,
    force: Annotated[bool, typer.Option("--force", help="Also start what is finished with these parameters.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON; what runs print goes to stderr.")] = False,
) -> None:
    """Run the paper's four rows as named experiments and print their FROC side by side.

    What this commit has already with the same parameters and code is not run again. What it has with others is run
    again, and replaced when the new one is done. Mean, standard deviation between seeds, 95 % interval over patients
    and seeds, and a test of each row against the one before (docs/evaluate.md).
    """
    require_dvc_repository()
    params, present = load_params(PARAMS), tracked_settings(PARAMS.read_text(encoding="utf-8"))
    if "test" not in params.detect.splits:
        raise UserError("params.yaml: detect.splits lacks test, on which the rows are compared; add it")
    plan = planned_runs(seeds, params.train.seed)
    commit = head_commit()
    if not only_table:
        with _restored(PARAMS):
            for planned in plan:
                _run(planned, commit, present, force, as_json)
    finished, missing, remarks = _finished_runs(plan, commit, present)
    if not finished:
        raise UserError(
            f"no row has been run on this commit yet with these parameters ({_listed(missing)}); "
            f"run `lesionpipe ablation`"
        )
    scores = score_rows(list(ROWS), finished, params)
    missing_line = [f"missing: {_listed(missing)}"] if missing else []
    text = "\n\n".join([ablation_table(scores), *remarks, *missing_line])
    print_result({"commit": commit, "missing": missing, "remarks": remarks} | scores if as_json else text)


def planned_runs(seeds: int, present_seed: int) -> list[PlannedRun]:
    """Every row with the first seed, then every row with the next: what is stopped early can be compared.

    Args:
        seeds: runs per row; with one, the seed stays as it is in params.yaml (`present_seed`).
    """
    if seeds == 1:
        return [PlannedRun(row, present_seed, row, settings) for row, settings in ROWS.items()]
    return [
        PlannedRun(row, seed, f"{row}-seed{seed}" if seed else row, {**settings, "train.seed": str(seed)})
        for seed in range(seeds)
        for row, settings in ROWS.items()
    ]


def run_words(planned: PlannedRun) -> list[str]:
    """The `dvc exp run` command, as a list of words."""
    settings = [word for name, value in planned.settings.items() for word in ("-S", f"{name}={value}")]
    return ["dvc", "exp", "run", "--name", planned.name, *settings]


def _expected(planned: PlannedRun, present: Settings) -> Settings:
    """The parameters of a run where those of params.yaml are `present`."""
    yaml = YAML(typ="safe", pure=True)
    return present | {name: yaml.load(value) for name, value in planned.settings.items()}


def _run(planned: PlannedRun, commit: str, present: Settings, force: bool, as_json: bool) -> None:
    """Run a row. An experiment of its name on this commit stays until the new one is done; others are left alone."""
    if head_commit() != commit:
        raise UserError(
            f"Git's HEAD has moved away from {commit[:7]}, to which the finished rows belong; "
            f"check that commit out to go on with them, or start again here"
        )
    existing, stream = finished_experiments(commit), sys.stderr if as_json else sys.stdout
    former, words, unfinished = existing.get(planned.name), run_words(planned), planned.name + UNFINISHED
    changed = not former or other_parameters(former, _expected(planned, present)) or other_code(former)
    if not changed and not force:
        print(f"{planned.name}: finished with these parameters, not run again", file=stream, flush=True)
        return
    if unfinished in existing:  # done, but not renamed by a run that was killed
        dvc_output("exp", "remove", unfinished)
    if former:
        words[words.index(planned.name)] = unfinished
    print("$ " + " ".join(words), file=stream, flush=True)
    if run_stoppable([sys.executable, "-m", *words], STDERR if as_json else None):
        raise UserError("the row stopped, see above; finished stages are cached: the same command goes on from there")
    if former:
        dvc_output("exp", "rename", "--force", unfinished, planned.name)


def _finished_runs(
    plan: list[PlannedRun], commit: str, present: Settings
) -> tuple[dict[str, dict[int, str]], dict[str, str], list[str]]:
    """Experiments to be compared, by row and seed; why the other runs are missing; remarks about those compared.

    What ran with other parameters is not compared; what ran with other code is, with a remark.
    """
    experiments = finished_experiments(commit)
    found, missing, remarks = {}, {}, []
    for planned in plan:
        if (reference := experiments.get(planned.name)) is None:
            missing[planned.name] = "not run"
        elif other := other_parameters(reference, _expected(planned, present)):
            missing[planned.name] = f"run with another {', '.join(other)}"
        else:
            found.setdefault(planned.row, {})[planned.seed] = reference
            if files := other_code(reference):
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
        for number, handler in handlers.items():
            signal.signal(number, handler)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
