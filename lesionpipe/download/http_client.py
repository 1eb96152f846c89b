"""What all downloads share: the HTTP client, which answers may pass, and how long to wait before the next attempt."""

import email.utils
import random
import time
from dataclasses import dataclass

import httpx

from lesionpipe.core.errors import UserError

PAUSE_S = 1.0  # before the first retry; doubled with each failure in a row
LONGEST_PAUSE_S = 60.0
LONGEST_RETRY_AFTER_S = 300.0  # a server may ask for a longer pause than ours, up to this
REDIRECTS = 10


@dataclass(frozen=True)
class RetryPolicy:
    """When a download gives up: after `retries` failures in a row, or `timeout_s` seconds of silence per attempt."""

    retries: int
    timeout_s: float


class Interrupted(Exception):
    """A failure that a later attempt may mend; `wait_s` is the pause that the server asked for."""

    def __init__(self, message: str, wait_s: float = 0.0) -> None:
        super().__init__(message)
        self.wait_s = wait_s


def client(timeout_s: float) -> httpx.Client:
    """An HTTP client that follows a few redirects, to web addresses alone, and takes bytes as they are stored."""
    return httpx.Client(
        timeout=timeout_s,
        follow_redirects=True,
        max_redirects=REDIRECTS,
        headers={"Accept-Encoding": "identity", "User-Agent": "lesionpipe"},
        event_hooks={"response": [_check_redirect]},
    )


def _check_redirect(response: httpx.Response) -> None:
    """Refuse a redirect to another scheme (file, ftp) or to no address at once, before httpx takes it for a cut."""
    if not response.has_redirect_location:
        return
    location = response.headers["Location"]
    try:
        target = response.url.join(location)
        allowed = target.scheme in ("http", "https") and target.host
    except httpx.InvalidURL:
        allowed = False
    if not allowed:
        raise UserError(f"redirects to {location!r}, which is no web address")


def pause(failures: int, error: BaseException | None) -> float:
    """Seconds before the next attempt: doubling, jittered, and at least what the server asked for within reason."""
    own = min(PAUSE_S * 2 ** (failures - 1), LONGEST_PAUSE_S) * random.uniform(0.75, 1.25)
    return max(own, min(getattr(error, "wait_s", 0.0), LONGEST_RETRY_AFTER_S))


def check_status(response: httpx.Response) -> None:
    """Raise Interrupted for what may pass (429, 5xx, a useless Range), UserError for a refusal."""
    status = response.status_code
    if status in (408, 416, 425, 429) or status >= 500:
        raise Interrupted(f"HTTP {status}", _retry_after(response.headers.get("Retry-After", "")))
    if status not in (200, 206):
        raise UserError(f"answers HTTP {status}")


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 where it is neither."""
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0
