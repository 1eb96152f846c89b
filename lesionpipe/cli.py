"""The `lesionpipe` command: parts of the pipeline that are useful alone, one module of `commands/` each."""

import typer

from lesionpipe.commands import ablation, anchors, compare, drop, export, fetch, froc
from lesionpipe.core import errors

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Lesion detection in CT: tools beside the DVC pipeline.",
)
app.command("fetch")(fetch.fetch)
app.command("drop")(drop.drop)
app.command("anchors")(anchors.anchors)
app.command("froc")(froc.froc)
app.command("compare")(compare.compare)
app.command("ablation")(ablation.ablation)
exports = typer.Typer(no_args_is_help=True, help="Write the data set and the detections for other programs.")
exports.command("coco")(export.coco)
app.add_typer(exports, name="export")


def main() -> None:
    """Entry point of the `lesionpipe` command."""
    errors.run(app)
