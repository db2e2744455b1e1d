"""What a process was told is undone unless it was told that all is done."""

from __future__ import annotations

import os
from pathlib import Path

from blockstore.vm import apart, ledger
from blockstore.vm.ledger import Ledger


def undone(path: Path, *, is_done: bool) -> bool:
    """Is a file gone that was told of?"""
    path.write_text("")
    book = Ledger()

    def job() -> int:
        made = ledger.read(book.reader)
        if not made.is_done:
            made.undo()
        return 0

    pid = apart.fork([book.reader], job)
    book.keep_writing()
    book.file(path)
    if is_done:
        book.done()
    else:
        book.close()
    os.waitpid(pid, 0)
    return not path.exists()


def test_undone_unless_done(tmp_path: Path) -> None:
    assert undone(tmp_path / "a\nline", is_done=False)
    assert not undone(tmp_path / "b", is_done=True)
