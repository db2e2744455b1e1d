"""Requests that wait for room keep their memory, and give it back when they are done."""

from __future__ import annotations

import pytest

from tests.daemon.lab import Lab, Mounted, blockstore, end, noisy, put, said, spawn, until
from tests.daemon.logs import NO_ROOM

MIB = 1 << 20

COUNTED = """
import os, threading, time, blockstore.daemon.lane.lane as lane
Requests = lane.Requests

def tell(requests):
    while True:
        with open("%(path)s.new", "w") as file:
            file.write(str(requests.large_in_use))
        os.replace("%(path)s.new", "%(path)s")
        time.sleep(0.01)

def counted(*arguments):
    requests = Requests(*arguments)
    threading.Thread(target=tell, args=(requests,), daemon=True).start()
    return requests

lane.Requests = counted
"""
"""For the daemon: a file that says how many buffers of requests are in use."""

WRITER = """
import os, sys
with open(sys.argv[1], "wb", buffering=0) as file:
    file.write(os.urandom(16 << 20))
    os.fsync(file.fileno())
print("synced", flush=True)
"""


@pytest.mark.mount
@NO_ROOM
def test_writes_that_waited_leave_no_buffers_behind(lab: Lab) -> None:
    count = lab.path / "count"
    (lab.path / "sitecustomize.py").write_text(COUNTED % {"path": count})
    place = Mounted(lab.mountpoint(), lab.path / "mnt.state")
    command = ["mount", str(place.path), "--state", str(place.state), "--pool-limit", "32M"]
    assert blockstore(*command, PYTHONPATH=str(lab.path)).returncode == 0
    put(place.path / "ballast", noisy(22 * MIB, 1))
    writer = spawn(WRITER, str(place.path / "file"))
    try:
        until(lambda: place.total()["stalled"] > 0, "a write waits, with its data in a buffer")
        until(lambda: int(count.read_text()) > 0, "its buffer is in use")
        (place.path / "ballast").unlink()
        assert said(writer) == "synced"
    finally:
        end(writer.pid)
    until(lambda: count.read_text() == "0", "none is left")
