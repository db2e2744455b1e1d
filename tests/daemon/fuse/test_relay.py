"""The relay: what passes between the device and pyfuse3, and BATCH_FORGET in parts that fit into a message."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.fuse.device import Device
from blockstore.daemon.fuse.relay import CONGESTION_THRESHOLD, FORGETS_AT_ONCE, MAXIMUM_BACKGROUND, Relay
from blockstore.daemon.host.mounts import READ_AHEAD_BYTES

GETATTR, READDIRPLUS = 3, 44


@dataclass
class Ends:
    """A relay between a device and a session, both played by the test."""

    relay: Relay
    device: socket.socket
    session: socket.socket

    def request(self) -> bytes:
        """What pyfuse3 gets next."""
        return self.session.recv(4 << 20)

    def answer(self, data: bytes) -> bytes:
        """Answer as pyfuse3; what the kernel gets."""
        self.session.send(data)
        return self.device.recv(4 << 20)


@pytest.fixture
def ends() -> Iterator[Ends]:
    device, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    placeholder = os.open(os.devnull, os.O_RDONLY)
    relay = Relay(Device(theirs.fileno()), lambda: None)
    relay.start(placeholder)
    session = socket.socket(fileno=placeholder)
    for end in (device, session):
        end.settimeout(20)
    try:
        yield Ends(relay, device, session)
    finally:
        relay.close()
        for end in (device, theirs, session):
            end.close()


def request(opcode: int, unique: int, body: bytes = b"") -> bytearray:
    return bytearray(abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), opcode, unique, 1, 0, 0, 0, 0, 0) + body)


@pytest.mark.parametrize("count", [0, 1, FORGETS_AT_ONCE - 1, FORGETS_AT_ONCE, FORGETS_AT_ONCE + 1, 65_000])
def test_batch_forget_is_split(ends: Ends, count: int) -> None:
    forgets = [(1000 + number, 1 + number % 7) for number in range(count)]
    body = b"".join(struct.pack("<QQ", *forget) for forget in forgets)
    whole = request(abi.BATCH_FORGET, 8, abi.BATCH_FORGET_IN.pack(count, 0) + body)
    sender = threading.Thread(target=ends.relay.forward, args=(abi.BATCH_FORGET, 8, whole))
    sender.start()
    seen: list[tuple[int, int]] = []
    while len(seen) < count:
        part = ends.request()
        length, opcode, unique, *_ = abi.IN_HEADER.unpack_from(part)
        here, _ = abi.BATCH_FORGET_IN.unpack_from(part, abi.IN_HEADER.size)
        entries = part[abi.IN_HEADER.size + abi.BATCH_FORGET_IN.size :]
        assert (length, opcode, unique) == (len(part), abi.BATCH_FORGET, 8) and 0 < here <= FORGETS_AT_ONCE
        assert len(entries) == here * abi.FORGET_ONE_BYTES
        seen += struct.iter_unpack("<QQ", entries)
    sender.join(20)
    assert not sender.is_alive() and seen == forgets
    ends.relay.forward(GETATTR, 9, request(GETATTR, 9))
    assert abi.IN_HEADER.unpack_from(ends.request())[2] == 9, "nothing else came of it"
    assert ends.relay.unanswered == {9: GETATTR}, "a forget has no answer"


def test_requests_and_answers_pass_unchanged(ends: Ends) -> None:
    there = request(READDIRPLUS, 77, os.urandom(100))
    ends.relay.forward(READDIRPLUS, 77, there)
    assert ends.request() == there and ends.relay.unanswered == {77: READDIRPLUS}
    back = abi.OUT_HEADER.pack(abi.OUT_HEADER.size + 128 * 1024, 0, 77) + os.urandom(128 * 1024)
    assert ends.answer(back) == back and not ends.relay.unanswered


def test_forget_has_no_answer(ends: Ends) -> None:
    ends.relay.forward(abi.FORGET, 5, request(abi.FORGET, 5, bytes(8)))
    assert ends.request() and not ends.relay.unanswered


def test_init_loses_what_hurts(ends: Ends) -> None:
    flags = abi.SPLICE_FLAGS | abi.AUTO_INVAL_DATA | abi.ASYNC_READ | abi.ASYNC_DIO | 1 << 17
    hello = request(abi.INIT, 2, abi.INIT_IN.pack(7, 45, 1 << 17, flags) + bytes(48))
    ends.relay.forward_init(2, bytearray(hello))
    *_, asked = abi.INIT_IN.unpack_from(ends.request(), abi.IN_HEADER.size)
    assert asked == 1 << 17
    largest = ends.relay.device.maximum_write_bytes
    figures = abi.INIT_OUT.pack(7, 38, 1 << 17, asked, 99, 77, 2 << 20, 1, 512) + bytes(32)
    answer = abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(figures), 0, 2) + figures
    found = ends.answer(answer)
    _, _, read_ahead, granted, background, congestion, *rest = abi.INIT_OUT.unpack_from(found, abi.OUT_HEADER.size)
    assert (granted, read_ahead) == (asked, READ_AHEAD_BYTES)
    assert (background, congestion) == (MAXIMUM_BACKGROUND, CONGESTION_THRESHOLD)
    assert rest == [largest, 1, largest // abi.PAGE_BYTES], "a WRITE fits into the pipe, and times are exact"
    assert len(found) == len(answer)
    assert ends.answer(answer) == answer, "only the answer to INIT is edited"


def test_close_does_not_write_back(ends: Ends) -> None:
    """FOPEN_NOFLUSH in the answers to OPEN and CREATE, and nothing else changed."""
    for opcode, entry in ((abi.OPEN, b""), (abi.CREATE, os.urandom(abi.ENTRY_OUT_BYTES))):
        for error in (0, -2):
            ends.relay.forward(opcode, 12, request(opcode, 12))
            assert ends.request()
            body = entry + abi.OPEN_OUT.pack(1 << 40, 2, 0)
            header = abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), error, 12)
            expected = body if error else entry + abi.OPEN_OUT.pack(1 << 40, 2 | abi.OPEN_NOFLUSH, 0)
            assert ends.answer(header + body) == header + expected


def test_the_end(ends: Ends) -> None:
    ends.relay.close()
    assert ends.request() == b"", "pyfuse3 sees the end"
