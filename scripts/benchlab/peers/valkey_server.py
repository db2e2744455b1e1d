"""Real Valkey or Redis servers, on ports of their own, as children that are ended by their process id."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from pathlib import Path

from benchlab.peers.ports import Port

START_S = 60.0


class Server:
    """One server, with its files in `place`. `stop` and `start` keep the port, and nobody else gets it between."""

    def __init__(self, place: Path, *options: str, port: Port | None = None) -> None:
        self._port = port or Port(bus=True)
        self.port = self._port.number
        self._place = place / str(self.port)
        self._place.mkdir()
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        program = shutil.which("valkey-server") or shutil.which("redis-server")
        # redis-tools has the server under another name; the package redis-server would also start one for good.
        program = program or shutil.which("redis-check-rdb")
        assert program, "no server: scripts/setup installs redis-tools"
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._place)]
        command += ["--save", "", "--appendonly", "no", *self._options]
        with (self._place / "log").open("ab") as log:
            self._process = subprocess.Popen(command, executable=program, stdout=log, stderr=log)
        deadline = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None and time.monotonic() < deadline, (self._place / "log").read_text()
                time.sleep(0.01)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
