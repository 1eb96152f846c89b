"""A local HTTP server that serves one file as badly as a test asks: one fault per request, in order, then none."""

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = str  # a name of `_Handler`'s faults, perhaps with a value: "status 503", "cut 1000"


class FaultyServer(ThreadingHTTPServer):
    """Serves `content` at /file; `faults` are used up by the requests, `ranges` notes what they asked for."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, content: bytes, faults: list[Fault]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.faults, self.ranges = content, faults, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are expected."""


@contextlib.contextmanager
def serve(content: bytes, *faults: Fault) -> Iterator[FaultyServer]:
    """A running server."""
    server = FaultyServer(content, list(faults))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        fault, _, value = (self.server.faults.pop(0) if self.server.faults else "none").partition(" ")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and fault != "ignore_range" else 0
        getattr(self, f"_{fault}")(start, value)

    def _head(self, status: int, length: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.send_header("Connection", "close")
        for name, text in headers.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()
        self.close_connection = True

    def _send(self, start: int, body: bytes, length: int | None = None, first: int | None = None) -> None:
        """Bytes from `start` on, as 206 where only a rest was asked for."""
        total = len(self.server.content)
        length = len(body) if length is None else length
        if start:
            first = start if first is None else first
            self._head(206, length, Content_Range=f"bytes {first}-{total - 1}/{total}")
        else:
            self._head(200, length)
        self.wfile.write(body)
        self.wfile.flush()

    def _none(self, start: int, value: str) -> None:
        self._send(start, self.server.content[start:])

    _ignore_range = _none

    def _cut(self, start: int, value: str) -> None:
        """Announce all, send some bytes, hang up."""
        rest = self.server.content[start:]
        self._send(start, rest[: int(value)], len(rest))

    def _ignore_and_cut(self, start: int, value: str) -> None:
        self._send(0, self.server.content[: int(value)], len(self.server.content))

    def _reset(self, start: int, value: str) -> None:
        """Send some bytes, then reset the connection."""
        self._cut(start, value)
        time.sleep(0.05)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def _announce(self, start: int, value: str) -> None:
        """Announce `value` bytes more (or less) than there are."""
        rest = self.server.content[start:]
        self._send(start, rest, len(rest) + int(value))

    def _longer(self, start: int, value: str) -> None:
        self._send(start, self.server.content[start:] + bytes(int(value)))

    def _wrong(self, start: int, value: str) -> None:
        """The right number of wrong bytes."""
        self._send(start, bytes(len(self.server.content) - start))

    def _wrong_range(self, start: int, value: str) -> None:
        """Send other bytes than those asked for, and say so."""
        self._send(start, self.server.content[start - int(value) :], first=start - int(value))

    def _status(self, start: int, value: str) -> None:
        status, _, retry_after = value.partition(" ")
        self._head(int(status), 0, **({"Retry_After": retry_after} if retry_after else {}))

    def _redirect(self, start: int, value: str) -> None:
        """To this file again, or to another address."""
        self._head(302, 0, Location=value or self.server.url)

    def _page(self, start: int, value: str) -> None:
        body = b"<html>please log in</html>"
        self._head(200, len(body), Content_Type="text/html; charset=utf-8")
        self.wfile.write(body)

    def _silent(self, start: int, value: str) -> None:
        self._head(200, len(self.server.content))
        self.wfile.write(self.server.content[:100])
        self.wfile.flush()
        time.sleep(float(value))

    def _slow(self, start: int, value: str) -> None:
        """All of it, in pieces of 1000 bytes with pauses between them."""
        rest = self.server.content[start:]
        self._send(start, b"", len(rest))
        for offset in range(0, len(rest), 1000):
            self.wfile.write(rest[offset : offset + 1000])
            self.wfile.flush()
            time.sleep(float(value))
