"""Where DL_info.csv comes from: the phantom, a given path, beside the images, or the first address that has it.

The official file's size and checksum are known; another file is used all the same, with a warning, because its numbers
will not compare with published ones.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import tenacity

from lesionpipe import phantom
from lesionpipe.core.errors import UserError
from lesionpipe.core.files import atomic_path
from lesionpipe.core.formats import write_csv
from lesionpipe.core.hashing import checksum
from lesionpipe.download.inventory import ANNOTATIONS, annotations_beside, images_folder
from lesionpipe.download.queue import downloads_folder
from lesionpipe.download.transfer import Interrupted, Patience, check_status, client, pause
from lesionpipe.params import Dataset, Phantom

TARGET = Path("data/raw") / ANNOTATIONS
OFFICIAL_BYTES = 8_479_888
OFFICIAL_SHA256 = "a8f57b4b1164c9ed770b5add2920d5f4c5f8defa0df467e12f6a51951e38995c"
RETRIES = 2  # per address: the next one may be quicker than patience with a dead one
LARGEST_BYTES = 200_000_000


def provide_annotations(dataset: Dataset, drawing: Phantom, urls: Sequence[str], patience: Patience) -> None:
    """Leave `data/raw/DL_info.csv`.

    Raises:
        UserError: the given file isn't there, or no address has the file.
    """
    if dataset.source == "phantom" and dataset.annotations is None:
        write_csv(TARGET, phantom.annotations(drawing, dataset.parts))
        return
    given = _given(dataset)
    if given:
        print(f"annotations: {given}")
        with atomic_path(TARGET) as temporary:
            shutil.copyfile(given, temporary)
    else:
        _take_fetched(urls, patience)
    warning = compare_with_official(TARGET)
    if warning:
        print(warning, file=sys.stderr)


def _take_fetched(urls: Sequence[str], patience: Patience) -> None:
    """The official file that an earlier run fetched, or a fetched one: growing dataset.parts needs no network."""
    kept = downloads_folder() / ANNOTATIONS
    if not kept.exists() or compare_with_official(kept):
        content = fetch_annotations(urls, patience)
        with atomic_path(kept) as temporary:
            temporary.write_bytes(content)
    with atomic_path(TARGET) as temporary:
        shutil.copyfile(kept, temporary)


def _given(dataset: Dataset) -> Path | None:
    """The file on this machine, or None where it has to be fetched."""
    if dataset.annotations is not None:
        if not Path(dataset.annotations).is_file():
            raise UserError(f"dataset.annotations: {dataset.annotations}: no such file")
        return Path(dataset.annotations)
    if dataset.source == "archives":
        return annotations_beside(dataset.path)
    if dataset.source == "folder":
        beside = annotations_beside(images_folder(dataset.path))
        if beside is None:
            raise UserError(f"dataset.path: no {ANNOTATIONS} in or beside {dataset.path}; set dataset.annotations")
        return beside
    return None


def fetch_annotations(urls: Sequence[str], patience: Patience) -> bytes:
    """The file from the first address that has it.

    Raises:
        UserError: none has; the failure of each address is told.
    """
    failures = []
    for url in urls:
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((Interrupted, httpx.TransportError)),
            stop=tenacity.stop_after_attempt(1 + min(RETRIES, patience.retries)),
            wait=lambda state: pause(state.attempt_number, state.outcome.exception()),
            reraise=True,
        )
        try:
            return retrying(_fetch_once, url, patience.timeout_s)
        except (UserError, Interrupted, httpx.HTTPError, httpx.InvalidURL) as error:
            failures.append(f"{url}: {error or type(error).__name__}")
            print(f"{ANNOTATIONS}: {failures[-1]}", file=sys.stderr)
    raise UserError(
        f"{ANNOTATIONS}: no address has it ({'; '.join(failures) or 'download.annotation_urls is empty'}); "
        "get the file by hand and set dataset.annotations to its path"
    )


def _fetch_once(url: str, timeout_s: float) -> bytes:
    content = bytearray()
    with client(timeout_s) as http, http.stream("GET", url) as response:
        check_status(response, ANNOTATIONS)
        for chunk in response.iter_raw():
            content += chunk
            if len(content) > LARGEST_BYTES:
                raise UserError(f"answers with more than {LARGEST_BYTES:,} bytes")
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
