"""Where DL_info.csv lies: the phantom's, a given file, one beside the slices, or a copy fetched once.

The official file's size and checksum are known. Another file is used all the same, with a warning, because its numbers
will not compare with published ones.
"""

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import tenacity

from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path, scratch_folder
from lesionpipe.core.hashing import checksum
from lesionpipe.download.http_client import Interrupted, RetryPolicy, check_status, client, pause
from lesionpipe.download.places import PHANTOM, images_folder

ANNOTATIONS = "DL_info.csv"
INPUT_FOLDER = Path("data/inputs/annotations")  # a dependency of the stage: DVC tracks what lies in it
OFFICIAL_BYTES = 8_479_888
OFFICIAL_SHA256 = "a8f57b4b1164c9ed770b5add2920d5f4c5f8defa0df467e12f6a51951e38995c"
MAX_RETRIES = 2  # per address: the next one may be quicker than a dead one
MAX_TABLE_BYTES = 200_000_000


class Annotations(NamedTuple):
    """The files that hold the lesions, one after another, and what the metrics call them (no machine's own path)."""

    paths: tuple[Path, ...]
    name: str

    @property
    def md5(self) -> str:
        """Hex digits of the MD5 of all rows in one file, the header once; of a single file that of the file."""
        digest = hashlib.md5(usedforsecurity=False)
        for number, path in enumerate(self.paths):
            header, end, rows = path.read_bytes().partition(b"\n")
            digest.update(rows if number else header + end + rows)
        return digest.hexdigest()


def provide_annotations(
    source: str, parts: Sequence[str], path: str | None, given: str | None, urls: Sequence[str], retries: RetryPolicy
) -> Annotations:
    """The annotations, found on this computer (`given` before all others) or fetched; unofficial ones are reported.

    A UserError where the file isn't there, lies where DVC doesn't track its content, or can't be fetched.
    """
    if given is not None:
        found = Annotations((_tracked(given),), given)
    elif source == "phantom":
        found = Annotations(tuple(map(_of_phantom, sorted(parts))), f"{ANNOTATIONS} of the phantom")
    elif source != "nih" and (beside := _beside(source, path)):
        found = Annotations((beside,), f"{ANNOTATIONS} beside the slices")
    else:
        found = Annotations((_fetched(urls, retries),), f"{ANNOTATIONS} fetched")
    print(f"annotations: {found.name}, MD5 {found.md5}")
    if source != "phantom" or given:
        for warning in filter(None, map(compare_with_official, found.paths)):
            print(warning, file=sys.stderr)
    return found


def _tracked(given: str) -> Path:
    """The file `dataset.annotations`, which must lie in `INPUT_FOLDER`; links there may lead elsewhere."""
    path = Path(given)
    if not Path(os.path.normpath(path.absolute())).is_relative_to(INPUT_FOLDER.absolute()):
        remedy = f"copy or link the file into it: dataset.annotations: {INPUT_FOLDER / path.name}"
        place = f"dataset.annotations: {path.absolute()} lies outside {INPUT_FOLDER}, where DVC notices changes"
        raise UserError(f"{place}; {remedy}")
    if not path.is_file():
        raise UserError(f"dataset.annotations: {path.absolute()}: no such file; copy or link it there")
    return path


def _of_phantom(part: str) -> Path:
    path = PHANTOM / part / ANNOTATIONS
    if not path.is_file():
        raise UserError(f"{path}: no such file; run `dvc repro phantom`")
    return path


def _beside(source: str, path: str) -> Path | None:
    """The file in or beside the folder of slices; None where it may be fetched instead."""
    folder = images_folder(path) if source == "folder" else Path(path)
    for place in (folder, folder.parent):
        if (place / ANNOTATIONS).is_file():
            return place / ANNOTATIONS
    if source == "folder":
        remedy = f"copy or link one into {INPUT_FOLDER}/ and name it in dataset.annotations"
        raise UserError(f"dataset.path: no {ANNOTATIONS} in or beside {folder}; {remedy}")
    return None


def _fetched(urls: Sequence[str], retries: RetryPolicy) -> Path:
    """The file from the first address that has it, unless an earlier run has left the official one."""
    kept = scratch_folder() / "downloads" / ANNOTATIONS
    if kept.exists() and compare_with_official(kept) is None:
        return kept
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((Interrupted, httpx.TransportError)),
        stop=tenacity.stop_after_attempt(1 + min(MAX_RETRIES, retries.retries)),
        wait=lambda state: pause(state.attempt_number, state.outcome.exception()),
        reraise=True,
    )
    failures = []
    for url in urls:
        try:
            with atomic_path(kept) as temporary:
                temporary.write_bytes(retrying(_received, url, retries.timeout_s))
            return kept
        except (UserError, Interrupted, httpx.HTTPError, httpx.InvalidURL) as error:
            failures.append(f"{url}: {str(error) or type(error).__name__}")
            print(f"{ANNOTATIONS}: {failures[-1]}", file=sys.stderr)
    raise UserError(
        f"{ANNOTATIONS}: no address has it ({'; '.join(failures) or 'download.annotation_urls is empty'}); "
        f"put a copy into {INPUT_FOLDER}/ and name it in dataset.annotations"
    )


def _received(url: str, timeout_s: float) -> bytes:
    content = bytearray()
    with client(timeout_s) as http, http.stream("GET", url) as response:
        check_status(response)
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > MAX_TABLE_BYTES:
                raise UserError(f"answers with more than {MAX_TABLE_BYTES:,} bytes")
    if b"File_name" not in content.partition(b"\n")[0]:
        raise UserError(f"answers with something else than {ANNOTATIONS}")
    return bytes(content)


def compare_with_official(path: Path) -> str | None:
    """A warning where the file isn't the official one, byte for byte."""
    found = path.stat().st_size, checksum(path, "sha256")
    if found == (OFFICIAL_BYTES, OFFICIAL_SHA256):
        return None
    return (
        f"warning: {path} is not the official {ANNOTATIONS}: {found[0]:,} bytes, sha256 {found[1]}; known are "
        f"{OFFICIAL_BYTES:,} bytes, sha256 {OFFICIAL_SHA256}. Results may not compare with published ones."
    )
