"""What a process was told is undone unless it was told that all is done."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from blockstore.vm import apart
from blockstore.vm.fork import ledger
from blockstore.vm.fork.ledger import Ledger


def opened() -> tuple[Ledger, int]:
    """And the process that undoes."""
    book = Ledger()

    def job() -> int:
        ledger.settle(book.reader)
        return 0

    pid = apart.fork([book.reader], job)
    book.keep_writing()
    return book, pid


def undone(path: Path, *, is_done: bool) -> bool:
    """Is a file gone that was told of?"""
    path.write_text("")
    book, pid = opened()
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


def test_what_still_makes_a_file_is_waited_for(tmp_path: Path) -> None:
    book, pid = opened()
    book.file(tmp_path / "a")
    command = ["sh", "-c", 'read line; touch "$0"', str(tmp_path / "a")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=[book.writer]) as late:
        book.close()
        assert os.waitpid(pid, os.WNOHANG) == (0, 0)
        late.communicate(b"now\n", 10)
    os.waitpid(pid, 0)
    assert not (tmp_path / "a").exists()
