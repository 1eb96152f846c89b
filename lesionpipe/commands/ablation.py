"""The paper's ablation (Table 1): its four rows as named DVC experiments, and their comparison."""

import subprocess
from pathlib import Path
from typing import Annotated

import dvc.api
import typer

from lesionpipe.core.errors import UserError

PARAMS = Path("params.yaml")
# Each row moves the switches of the one before; what a row does not name is as in params.yaml.
ROWS: dict[str, dict[str, str]] = {
    "original": {
        "anchors.use": "default",
        "network.levels": "P3-P7",
        "network.mask_branch": "false",
        "network.attention": "false",
    },
    "anchor-optimisation": {
        "anchors.use": "searched",
        "network.levels": "P3-P7",
        "network.mask_branch": "false",
        "network.attention": "false",
    },
    "dense-supervision": {
        "anchors.use": "searched",
        "network.levels": "P2-P6",
        "network.mask_branch": "true",
        "network.attention": "false",
    },
    "attention-gate": {
        "anchors.use": "searched",
        "network.levels": "P2-P6",
        "network.mask_branch": "true",
        "network.attention": "true",
    },
}
RATES = ("0.5", "1", "2", "4", "8", "16")


def command(row: str, allow_missing: bool = False) -> list[str]:
    """The `dvc exp run` command of a row, as a list of words."""
    settings = [word for name, value in ROWS[row].items() for word in ("-S", f"{name}={value}")]
    return ["dvc", "exp", "run", "--name", row, *(["--allow-missing"] if allow_missing else []), *settings]


def ablation(
    only_table: Annotated[bool, typer.Option("--table", help="Only print the finished rows.")] = False,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Go without archives that were dropped after preprocess.")
    ] = False,
) -> None:
    """Run the paper's four rows as named experiments and print their FROC side by side."""
    if not only_table:
        text = PARAMS.read_text(encoding="utf-8")
        try:
            for row in ROWS:
                _run(command(row, allow_missing))
        finally:
            PARAMS.write_text(text, encoding="utf-8")  # an experiment leaves its own settings behind
    finished = {e["Experiment"]: e for e in dvc.api.exp_show() if e.get("Experiment") in ROWS}
    if not finished:
        raise UserError("no row has been run on this commit yet; run `lesionpipe ablation`")
    print(table(finished))


def _run(words: list[str]) -> None:
    """Run a row anew: an older experiment of its name makes way."""
    subprocess.run(["dvc", "exp", "remove", words[4]], check=False, capture_output=True)
    print("$ " + " ".join(words), flush=True)
    if subprocess.run(words, check=False).returncode:
        raise UserError("the row stopped, see above; finished stages are cached: the same command goes on from there")


def table(experiments: dict[str, dict]) -> str:
    """Markdown table of sensitivities (%) on the test split, one line per finished row."""
    lines = ["| row | " + " | ".join(f"{r} FP" for r in RATES) + " |", "|---" * (len(RATES) + 1) + "|"]
    for row in ROWS:
        cells = [_percent(experiments.get(row, {}), rate) for rate in RATES]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _percent(experiment: dict, rate: str) -> str:
    value = next((v for k, v in experiment.items() if k.endswith(f"test.sensitivity_at_{rate}")), None)
    return "–" if value is None else f"{100 * value:.1f}"
