"""Serving the metrics: HTTP in threads of the controller's process, on a socket that the daemon has bound.

Nothing here may hang a scrape or the end of the process: the daemon may stand still, and then whoever asks it or opens
a file of its mount waits. So one thread takes observations, scrapes wait for it so long and no longer, requests are
limited in number and in time, and all threads are daemon threads.
"""

from __future__ import annotations

import math
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final, cast

from prometheus_client.core import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder

from blockstore import version
from blockstore.daemon.host import mounts
from blockstore.errors import MountError
from blockstore.vm.observe.log_line import log
from blockstore.vm.observe.metrics import Observation, families
from blockstore.vm.observe.observe import observe

SCRAPE_S: Final = 8.0
"""How long a scrape waits for an observation, if it does not say what time it has; Prometheus gives up after ten."""

MARGIN_S: Final = 0.5
"""Of the time that a scraper has, for the way."""

LONGEST_SCRAPE_S: Final = 30.0

MAXIMUM_REQUESTS: Final = 8
"""At a time; further ones are told so."""

REQUEST_S: Final = LONGEST_SCRAPE_S + 10.0
"""How long a connection may last, whatever it sends and reads."""

IDLE_S: Final = 5.0
"""How long a client may take to send anything, or to read."""

TIMEOUT_HEADER: Final = "X-Prometheus-Scrape-Timeout-Seconds"

PATHS: Final = ("/", "/metrics")

_BUSY: Final = b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Observer:
    """Takes observations of one mount, one at a time; those who come meanwhile share the next one."""

    def __init__(self, state: Path, mountpoint: Path) -> None:
        self._state = state
        self._mountpoint = mountpoint
        self._changed = threading.Condition()
        self._wanted = 0  # numbers of observations: the last that somebody waits for,
        self._begun = 0  # that was begun, and that has ended
        self._ended = 0
        self._result: Observation | None = None
        threading.Thread(target=self._run, name="observer", daemon=True).start()

    def take(self, timeout_s: float) -> Observation | None:
        """One that was begun after this call; None when the mount is down, or does not answer in time."""
        with self._changed:
            mine = self._wanted = self._begun + 1
            self._changed.notify_all()
            in_time = self._changed.wait_for(lambda: self._ended >= mine, timeout_s)
            return self._result if in_time else None

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._wanted > self._begun)
                self._begun += 1
            result = self._observe()
            with self._changed:
                self._ended, self._result = self._begun, result
                self._changed.notify_all()

    def _observe(self) -> Observation | None:
        try:
            mount = mounts.served_by(self._state, self._mountpoint)
            if mount is None:
                return None
            return Observation(*observe(mount))
        except (MountError, OSError):
            return None
        except Exception as error:  # an answer of other code, in the moment of a reload; this thread must go on
            log("metrics", f"the metrics cannot be made: {type(error).__name__}: {error}")
            return None


class Scrape:
    """A collector (prometheus_client) of what is there now."""

    def __init__(self, observer: Observer, version_text: str, timeout_s: float) -> None:
        self._observer = observer
        self._version = version_text
        self._timeout_s = timeout_s

    def collect(self) -> Iterator[Metric]:
        return families(self._observer.take(self._timeout_s), self._version)

    def describe(self) -> list[Metric]:
        """What the registry would otherwise ask `collect` for."""
        return []


class Server(ThreadingMixIn, TCPServer):
    """On a socket that listens already."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, observer: Observer) -> None:
        super().__init__(("", 0), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.socket.setblocking(False)  # a client that has gone is no reason to wait in accept
        self.observer = observer
        self.version = version()
        self._places = threading.BoundedSemaphore(MAXIMUM_REQUESTS)
        self._open: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            request.setblocking(False)
            request.send(_BUSY)
            self.shutdown_request(request)
            return
        self._open[request] = time.monotonic()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread to be had
            self._leave(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._leave(request)

    def service_actions(self) -> None:
        """Several times a second: end the connections of those who read or send a byte now and then."""
        for request, since in list(self._open.items()):
            if time.monotonic() - since > REQUEST_S:
                try:
                    request.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue  # it has just ended

    def _leave(self, request: socket.socket) -> None:
        del self._open[request]
        self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of our errors."""


class Handler(BaseHTTPRequestHandler):
    """One request; then the connection ends (HTTP/1.0)."""

    timeout = IDLE_S
    server_version = "blockstore"
    sys_version = ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] not in PATHS:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"the metrics are at /metrics\n")
            return
        server = cast(Server, self.server)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(Scrape(server.observer, server.version, scrape_s(self.headers.get(TIMEOUT_HEADER))))
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, content_type, encode(registry))

    def _answer(self, code: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nobody wants a line for each scrape."""


def scrape_s(header: str | None) -> float:
    """How long a scrape may wait, from what the scraper says it has."""
    try:
        left_s = float(header or "") - MARGIN_S
    except ValueError:
        return SCRAPE_S
    return min(max(left_s, MARGIN_S), LONGEST_SCRAPE_S) if math.isfinite(left_s) else SCRAPE_S


def start(listener_fd: int, state: Path, mountpoint: Path) -> None:
    """Serve in threads of this process, as long as it lives."""
    server = Server(socket.socket(fileno=listener_fd), Observer(state, mountpoint))
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
