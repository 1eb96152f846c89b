"""The `lesionpipe` command: parts of the pipeline that are useful alone, from the modules of `commands/`."""

import os
import sys
from pathlib import Path

import typer

from lesionpipe.commands import ablation, anchors, export, fetch, mine, preset, scoring
from lesionpipe.core import errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lesion detection in CT: tools beside the DVC pipeline.",
)
COMMANDS = (
    *(preset.preset, fetch.fetch, anchors.anchors, mine.mine),
    *(scoring.froc, scoring.compare, ablation.ablation),
)
for command in COMMANDS:
    app.command()(command)
exports = typer.Typer(no_args_is_help=True, help="Write the data set and the detections for other programs.")
exports.command()(export.coco)
app.add_typer(exports, name="export")


@app.command("drop", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def former_drop() -> None:
    """Say what replaced a former command."""
    raise errors.UserError(
        "drop is gone: archives are no output of DVC any more. Delete the file of a part that `dvc status preprocess` "
        "calls up to date; `lesionpipe fetch NN` brings it back"
    )


def main() -> None:
    """Entry point of the `lesionpipe` command; in another checkout than the installed one it runs the code there."""
    here = Path("lesionpipe/cli.py")
    if here.is_file() and Path("dvc.yaml").is_file() and not here.samefile(__file__):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
        os.execve(sys.executable, [sys.executable, "-m", "lesionpipe", *sys.argv[1:]], environment)
    errors.run(app)
