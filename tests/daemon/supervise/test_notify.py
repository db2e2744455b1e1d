"""The service protocol from the daemon's side, and what is left for the next daemon."""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
from pathlib import Path

import pytest

from blockstore.daemon import handover
from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.handover import Handover
from blockstore.daemon.supervise.notify import Service
from blockstore.daemon.supervise.notify_message import parse
from blockstore.errors import MountError
from tests.daemon.lab import run


def test_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2500000")
        service = Service()
        assert service.manager_pid == os.getppid() and service.watchdog_s == 2.5 and "NOTIFY_SOCKET" not in os.environ
        service.ready(["one\ntwo = three"])
        assert parse(manager.recv(4096)) == {"READY": "1", "X_WARNINGS": json.dumps(["one\ntwo = three"])}
        service.failed("so it is", 4)
        assert parse(manager.recv(4096)) == {"X_ERROR": json.dumps({"error": "so it is", "code": 4})}
        service.beat()
        assert manager.recv(4096) == b"WATCHDOG=1"
        reader, writer = os.pipe()
        service.keep(writer, "fuse")
        data, descriptors, _, _ = socket.recv_fds(manager, 4096, 4)
        assert parse(data) == {"FDSTORE": "1", "FDNAME": "fuse"} and len(descriptors) == 1
        os.write(descriptors[0], b"it")
        assert os.read(reader, 10) == b"it"
        for descriptor in (reader, writer, *descriptors):
            os.close(descriptor)
    service.beat()  # nobody is there any more: no error


def test_a_queue_that_is_full_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a beat: the daemon would stand still with whoever watches it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
            filler.setblocking(False)
            with pytest.raises(BlockingIOError):
                while True:
                    filler.sendto(b"", str(tmp_path / "notify"))
        Service().beat()


@pytest.mark.parametrize("message", [b"", b"\xff\xfe", b"READY", b"X_ERROR", b"X_WARNINGS\n==\n", os.urandom(500)])
def test_nonsense_is_left_out(message: bytes) -> None:
    assert not {"READY", "X_ERROR", "X_WARNINGS"} & set(parse(message))


def test_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    service = Service()
    service.ready([])
    assert service.manager_pid is None and not service.watchdog_s and not service.kept


def test_descriptors_for_another_process_are_not_ours() -> None:
    script = "from blockstore.daemon.supervise.notify import Service; print(Service().kept)"
    assert run([sys.executable, "-c", script], LISTEN_PID="1", LISTEN_FDS="1", LISTEN_FDNAMES="fuse").stdout == "{}\n"


def test_the_record_is_found_again(tmp_path: Path) -> None:
    assert handover.load(tmp_path) is None
    left = Handover("0:77").save(tmp_path).changed(tmp_path, init="0102", restarts=3)
    assert handover.load(tmp_path) == left and left.init_request == b"\x01\x02"
    (tmp_path / handover.NAME).write_text('{"device": 1, "nonsense": 2}')
    with pytest.raises(MountError, match="cannot be read"):
        handover.load(tmp_path)
    handover.forget(tmp_path)
    assert handover.load(tmp_path) is None


def test_a_descriptor_of_something_else(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(MountError, match="none of /dev/fuse"):
        handover.check_descriptor(file.fileno(), "0:5")


@pytest.mark.parametrize(
    ("flags", "flags2", "can"),
    [(1 << 30, 1 << 7, True), (1 << 30, 0, False), (0, 1 << 7, False), (1 << 30 | 5, 1 << 7 | 3, True)],
)
def test_kernels_that_can_ask_again(flags: int, flags2: int, can: bool) -> None:
    body = abi.INIT_IN.pack(7, 40, 1 << 17, flags) + struct.pack("<I", flags2) + bytes(44)
    request = abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), abi.INIT, 2, 0, 0, 0, 0, 0, 0) + body
    assert handover.can_resend(request) == can
    assert not handover.can_resend(request[: abi.IN_HEADER.size + abi.INIT_IN.size]), "an INIT of an old kernel"
