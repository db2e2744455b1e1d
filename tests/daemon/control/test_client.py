"""What is said when nobody answers at the control socket of a state."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from blockstore.daemon.control import client
from blockstore.daemon.supervise.phase_file import PhaseFile
from blockstore.errors import MountError


@pytest.fixture
def deserted(tmp_path: Path) -> Path:
    """A state whose daemon has died: its socket is there, and nobody listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        client.at(tmp_path / client.SOCKET_NAME, listener.bind)
    return tmp_path


def test_nobody_would_start_another_daemon(deserted: Path) -> None:
    assert client.is_refused(deserted) and not client.is_refused(deserted / "elsewhere")
    with pytest.raises(client.NobodyServes, match="`blockstore umount MOUNTPOINT`"):
        client.ask(deserted, {"do": "hello"})


def test_one_that_dies_again_and_again_is_told_of_soon_to_those_who_want_that(
    deserted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = PhaseFile(str(deserted))
    monkeypatch.setattr(client, "FAILING_S", 0.0)
    try:
        file.say(123, "waiting", "exit code 4")
        with pytest.raises(MountError, match=r"several times in a row \(exit code 4\).*process 123"):
            client.ask(deserted, {"do": "status"}, waits_for_failing=False)
        file.say(123, "paused", "exit code 4")
        with pytest.raises(MountError, match="once a minute"):
            client.ask(deserted, {"do": "status"})
    finally:
        file.close()


def test_a_short_pause_of_the_supervisor_is_waited_for(deserted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two deaths by chance are no reason to say that it fails."""
    file = PhaseFile(str(deserted))
    monkeypatch.setattr(client, "FAILING_S", 60.0)
    try:
        file.say(123, "waiting", "signal 9")
        later = threading.Timer(0.2, lambda: file.say(123, "paused", "signal 9"))
        later.start()
        with pytest.raises(MountError, match="once a minute"):
            client.ask(deserted, {"do": "status"}, waits_for_failing=False)
        later.join()
    finally:
        file.close()
