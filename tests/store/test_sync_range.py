"""An error of writing back is raised. That pages are clean afterwards: tests/vm/memory/test_write_back.py."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

import pytest

from blockstore.store import sync_range


@pytest.mark.parametrize("call", [sync_range.begin, sync_range.complete])
def test_an_error_is_raised(call: Callable[[int, int, int], None]) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w"), pytest.raises(OSError, match="write-back: Illegal seek") as error:
        call(reader, 0, 4096)
    assert error.value.errno == errno.ESPIPE
