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
from lesionpipe.core.files import atomic_path
from lesionpipe.core.hashing import checksum
from lesionpipe.core.scratch import scratch_folder
from lesionpipe.download.http_client import Interrupted, RetryPolicy, check_status, client, pause
from lesionpipe.download.places import ANNOTATIONS, annotations_beside, images_folder, phantom_folder

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
    """The annotations found on this computer or fetched; what isn't the official file is reported.

    Args:
        source, parts, path: of the section `dataset`.
        given: `dataset.annotations`, which goes before all others.
        urls, retries: of the section `download`.

    Raises:
        UserError: the file isn't there, lies where DVC doesn't track its content, or can't be fetched.
    """
    annotations = find_annotations(source, parts, path, given) or fetched_annotations(urls, retries)
    print(f"annotations: {annotations.name}, MD5 {annotations.md5}")
    if source != "phantom" or given:
        for warning in filter(None, map(compare_with_official, annotations.paths)):
            print(warning, file=sys.stderr)
    return annotations


def find_annotations(source: str, parts: Sequence[str], path: str | None, given: str | None) -> Annotations | None:
    """The annotations on this computer, or None where they have to be fetched; see `provide_annotations`."""
    if given is not None:
        return Annotations((_tracked(given),), str(given))
    if source == "phantom":
        paths = tuple(phantom_folder(part) / ANNOTATIONS for part in sorted(parts))
        return Annotations(paths, f"{ANNOTATIONS} of the phantom")
    if source == "nih":
        return None
    folder = images_folder(path) if source == "folder" else Path(path)
    beside = annotations_beside(folder)
    if beside is None and source == "folder":
        raise UserError(
            f"dataset.path: no {ANNOTATIONS} in or beside {folder}; copy or link one into {INPUT_FOLDER}/ and name it "
            "in dataset.annotations"
        )
    return Annotations((beside,), f"{ANNOTATIONS} beside the slices") if beside else None


def _tracked(given: str) -> Path:
    """The file `dataset.annotations`, which must lie in `INPUT_FOLDER`; links there may lead elsewhere."""
    path = Path(given)
    if not Path(os.path.normpath(path.absolute())).is_relative_to(INPUT_FOLDER.absolute()):
        raise UserError(
            f"dataset.annotations: {path.absolute()} lies outside {INPUT_FOLDER}, where DVC notices changes; copy or "
            f"link the file into it: dataset.annotations: {INPUT_FOLDER / path.name}"
        )
    if not path.is_file():
        raise UserError(f"dataset.annotations: {path.absolute()}: no such file; copy or link it there")
    return path


def fetched_annotations(urls: Sequence[str], retries: RetryPolicy) -> Annotations:
    """The official file, fetched unless an earlier run has left it in the scratch folder.

    Raises:
        UserError: no address has it.
    """
    kept = scratch_folder() / "downloads" / ANNOTATIONS
    if not kept.exists() or compare_with_official(kept):
        content = fetch_annotations(urls, retries)
        with atomic_path(kept) as temporary:
            temporary.write_bytes(content)
    return Annotations((kept,), f"{ANNOTATIONS} fetched")


def fetch_annotations(urls: Sequence[str], retries: RetryPolicy) -> bytes:
    """The file from the first address that has it.

    Raises:
        UserError: none has; the failure of each address is named.
    """
    failures = []
    for url in urls:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Interrupted, httpx.TransportError)),
            stop=tenacity.stop_after_attempt(1 + min(MAX_RETRIES, retries.retries)),
            wait=lambda state: pause(state.attempt_number, state.outcome.exception()),
            reraise=True,
        )
        try:
            return retrying(_fetch_once, url, retries.timeout_s)
        except (UserError, Interrupted, httpx.HTTPError, httpx.InvalidURL) as error:
            failures.append(f"{url}: {error or type(error).__name__}")
            print(f"{ANNOTATIONS}: {failures[-1]}", file=sys.stderr)
    raise UserError(
        f"{ANNOTATIONS}: no address has it ({'; '.join(failures) or 'download.annotation_urls is empty'}); "
        f"put a copy into {INPUT_FOLDER}/ and name it in dataset.annotations"
    )


def _fetch_once(url: str, timeout_s: float) -> bytes:
    content = bytearray()
    with client(timeout_s) as http, http.stream("GET", url) as response:
        check_status(response, ANNOTATIONS)
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
