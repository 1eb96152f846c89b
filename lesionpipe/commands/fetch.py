"""`lesionpipe fetch`: archives of DeepLesion into their folder, several side by side, before or after `dvc repro`."""

from typing import Annotated

import typer

from lesionpipe.core.errors import UserError
from lesionpipe.download.archives import OFFICIAL_TABLE, archives_of
from lesionpipe.download.http_client import RetryPolicy
from lesionpipe.download.places import archives_folder
from lesionpipe.download.queue import fetch_all, verify_all
from lesionpipe.download.sources import is_preprocessed
from lesionpipe.params import load_params


def fetch(
    parts: Annotated[list[str] | None, typer.Argument(help="Parts, as 01 02; none: all that still need one.")] = None,
) -> None:
    """Download archives side by side (runtime.downloads) into dataset.path; with source archives, verify given ones.

    What is there is kept, so it may be run again at any time. Without parts, those of dataset.parts that are
    preprocessed already are left out.
    """
    params = load_params()
    source, at_a_time = params.dataset.source, params.runtime.downloads
    if source not in ("nih", "archives"):
        raise UserError(f"dataset.source = {source}: it has no archives to fetch or verify; nih and archives have")
    folder = archives_folder(params.dataset.path)
    wanted = list(dict.fromkeys(parts or params.dataset.parts))
    archives = archives_of(wanted, params.download.archives or OFFICIAL_TABLE)
    if not parts:
        done = [archive for archive in archives if is_preprocessed(archive)]
        archives = [archive for archive in archives if archive not in done]
        if done:
            names = " ".join(archive.part for archive in done)
            print(f"preprocessed already: {names}; to have an archive all the same, name its part")
    if source == "nih":
        fetch_all(archives, folder, RetryPolicy(params.download.retries, params.download.timeout_s), at_a_time)
    else:
        verify_all(archives, folder, at_a_time)
    for archive in archives:
        print(folder / archive.name)
