"""What the supervisor says of itself is found again, whatever the reason, and fits on one page."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.daemon.supervise import phase
from blockstore.daemon.supervise.phase_file import NAME, REASON_CHARACTERS, SIZE_BYTES, PhaseFile
from blockstore.errors import BusyError


@pytest.mark.parametrize("reason", ["", 'it said: "no"\n', "\0" * 5000, "\U0001f400" * 5000, "a" * 5000])
def test_what_is_said_is_found(tmp_path: Path, reason: str) -> None:
    file = PhaseFile(str(tmp_path))
    try:
        file.say(123, "waiting", reason)
        found = phase.load(tmp_path)
        assert found is not None and found[:2] == (123, "waiting") and reason.startswith(found.reason)
        assert len(found.reason) >= min(len(reason), REASON_CHARACTERS // 2)
        assert (tmp_path / NAME).stat().st_size == SIZE_BYTES
        file.say(123, "serving")
        assert phase.load(tmp_path) == phase.Phase(123, "serving")
        with pytest.raises(BusyError):
            PhaseFile(str(tmp_path))
    finally:
        file.close()
    assert phase.load(tmp_path) is None
