"""The watch goes on while a look waits in the kernel, and takes in what a look has found."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, cast

import pytest

from blockstore.daemon.host import process_stat
from blockstore.daemon.host.mounts import Mount
from blockstore.vm.memory import write_errors
from blockstore.vm.memory.write_errors import Found
from blockstore.vm.memory.write_watch import MARK, WriteWatch
from tests.daemon.lab import ended, said, spawn, until

Looking = Callable[[Callable[[], dict[int, Found]]], WriteWatch]

MOUNT: Final = cast(Mount, None)
NAMES: Final = {2: "vm", 3: None}

CONTROLLER: Final = """
import os, signal, sys, time
from pathlib import Path
from blockstore.vm.memory import write_errors
from blockstore.vm.memory.write_watch import WriteWatch
def wait(*arguments, **options):
    print(os.getpid(), file=sys.stderr, flush=True)
    signal.pause()
def fail(*arguments, **options):
    raise OSError("the test wants this")
write_errors.look = {"wait": wait, "fail": fail}[sys.argv[1]]
os.dup2(1, 2)
WriteWatch(Path(sys.argv[2])).look(None, {})
signal.pause()
"""
"""Begins a look, whose stderr is this program's, and so is its stdout."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Looking:
    """Begins a watch with a look that is this function."""

    def having(look: Callable[[], dict[int, Found]]) -> WriteWatch:
        monkeypatch.setattr(write_errors, "look", lambda *_, **__: look())
        watch = WriteWatch(tmp_path)
        assert watch.is_due()
        watch.look(MOUNT, NAMES)
        return watch

    return having


def wait_for_ever() -> dict[int, Found]:
    signal.pause()
    return {}


def children() -> set[int]:
    return set(process_stat.children(os.getpid()))


def test_what_a_look_has_found_is_told_until_the_daemon_knows(watch: Looking) -> None:
    mended, failing = Found("vm", 8192), Found("(file 3, which has no name)", 0, "No space left on device")
    looking = watch(lambda: {2: mended, 3: failing})
    until(lambda: not looking.is_due() and looking.has_looked, "the look has ended")
    assert looking.news() == [mended, failing]
    assert looking.failed == {3}, "its clean pages may not be evicted"
    looking.told(looking.news())
    assert looking.news() == []


def test_a_look_that_waits_holds_nothing_up(watch: Looking) -> None:
    before = children()
    looking = watch(wait_for_ever)
    assert not looking.is_due(), "one look at a time"
    assert not looking.has_looked and looking.news() == []
    assert len(children() - before) == 1, "it waits in a process: the locks of ours are free"
    looking.close()
    until(lambda: not looking.is_due() and not children() - before, "it has ended")


def test_a_look_that_fails_is_no_look(watch: Looking) -> None:
    def fail() -> dict[int, Found]:
        raise OSError("the test wants this")

    before = children()
    looking = watch(fail)
    until(lambda: not looking.is_due() and not children() - before, "the look has ended")
    assert not looking.has_looked and looking.news() == []
    assert looking.failed == set(NAMES), "it may have been told of errors, of which the next look is not"


def test_a_look_that_is_killed_is_no_look(watch: Looking) -> None:
    before = children()
    looking = watch(wait_for_ever)
    for child in children() - before:
        os.kill(child, signal.SIGKILL)
    until(lambda: not looking.is_due() and not children() - before, "it has ended")
    assert not looking.has_looked and looking.failed == set(NAMES)


def test_no_process_can_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watch, before = WriteWatch(tmp_path), len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(OSError, match="the test wants this"):
        watch.look(MOUNT, NAMES)
    assert not watch.is_due(), "it is not tried at each tick"
    assert len(os.listdir("/proc/self/fd")) == before


def refuse() -> int:
    raise OSError("the test wants this")


def test_why_a_look_has_failed_is_in_the_log(tmp_path: Path) -> None:
    controller = spawn(CONTROLLER, "fail", str(tmp_path))
    line = said(controller)
    controller.kill()
    controller.wait(60)
    assert line.endswith(
        "controller: the look for pages that were not written has failed: OSError('the test wants this')"
    )


def test_a_look_ends_with_the_controller(tmp_path: Path) -> None:
    controller = spawn(CONTROLLER, "wait", str(tmp_path))
    look = int(said(controller))
    controller.kill()
    controller.wait(60)
    assert ended(look)


def test_after_a_look_that_was_cut_short_all_files_are_suspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have been told of errors, of which nobody is told again, and not have made the pages dirty yet."""
    controller = spawn(CONTROLLER, "wait", str(tmp_path))
    said(controller)
    controller.kill()
    controller.wait(60)
    assert suspects_of_next(tmp_path, monkeypatch) == sorted(NAMES)
    assert suspects_of_next(tmp_path, monkeypatch) == [], "that look has come to its end"


def test_what_has_failed_is_not_forgotten_by_the_next_controller(
    watch: Looking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looking = watch(dict)
    until(lambda: not looking.is_due() and looking.has_looked, "the look has ended")
    assert not list(tmp_path.iterdir())
    looking.failed.add(2)  # as an evictor does that was told
    looking.is_due()
    assert suspects_of_next(tmp_path, monkeypatch) == sorted(NAMES)


def test_nothing_is_suspect_on_a_fresh_mount(tmp_path: Path) -> None:
    (tmp_path / MARK).touch()
    WriteWatch(tmp_path).spare_first_look()
    assert not list(tmp_path.iterdir())


def suspects_of_next(state: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What the first look of the next controller takes for suspect."""
    asked = state.with_name(f"{state.name}-suspects")

    def look(*arguments: object, **_: bool) -> dict[int, Found]:
        asked.write_text(json.dumps(sorted(cast(Collection[int], arguments[3]))))
        return {}

    monkeypatch.setattr(write_errors, "look", look)
    watch = WriteWatch(state)
    watch.look(MOUNT, NAMES)
    until(lambda: not watch.is_due() and watch.has_looked, "the look has ended")
    suspects: list[int] = json.loads(asked.read_text())
    return suspects
