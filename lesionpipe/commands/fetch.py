"""`lesionpipe fetch`: archives of DeepLesion into the scratch folder, several side by side, ahead of `dvc repro`."""

from typing import Annotated

import typer

from lesionpipe.deeplesion.archives import dvc_cache
from lesionpipe.deeplesion.download import Patience
from lesionpipe.deeplesion.fetching import fetch_all
from lesionpipe.deeplesion.sources import archives_of, not_provided
from lesionpipe.errors import UserError
from lesionpipe.params import load_params


def fetch(
    parts: Annotated[list[str] | None, typer.Argument(help="Parts, as 01 02; none: all of dataset.parts.")] = None,
) -> None:
    """Fetch archives side by side (runtime.downloads); what is there is kept, so it may be rerun at any time."""
    params = load_params()
    if params.dataset.source != "nih":
        raise UserError(f"dataset.source = {params.dataset.source}: there is nothing to fetch; only nih is downloaded")
    archives = archives_of(parts or params.dataset.parts, params.dataset)
    if not parts:
        archives = not_provided(archives, dvc_cache())
    for path in fetch_all(archives, Patience.of(params)):
        print(path)
