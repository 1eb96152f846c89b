"""`lesionpipe fetch`: archives of DeepLesion into the scratch folder, several side by side, ahead of `dvc repro`."""

from typing import Annotated

import typer

from lesionpipe.core.errors import UserError
from lesionpipe.download.archives import dvc_cache
from lesionpipe.download.queue import fetch_all
from lesionpipe.download.sources import archives_of, not_provided
from lesionpipe.download.transfer import Patience
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
