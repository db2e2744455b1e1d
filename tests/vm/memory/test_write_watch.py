"""The watch goes on while a look waits in the kernel, and takes in what a look has found."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final, cast

import pytest

from blockstore.daemon.host import process_stat
from blockstore.daemon.host.mounts import Mount
from blockstore.vm.memory import write_errors
from blockstore.vm.memory.write_errors import Found
from blockstore.vm.memory.write_watch import WriteWatch
from tests.daemon.lab import ended, said, spawn, until

Looking = Callable[[Callable[[], dict[int, Found]]], WriteWatch]

MOUNT: Final = cast(Mount, None)
NAMES: Final = {2: "vm", 3: None}

CONTROLLER: Final = """
import os, signal, sys, time
from blockstore.vm.memory import write_errors
from blockstore.vm.memory.write_watch import WriteWatch
def wait(*arguments, **options):
    print(os.getpid(), file=sys.stderr, flush=True)
    signal.pause()
def fail(*arguments, **options):
    raise OSError("the test wants this")
write_errors.look = {"wait": wait, "fail": fail}[sys.argv[1]]
os.dup2(1, 2)
WriteWatch().look(None, {})
signal.pause()
"""
"""Begins a look, whose stderr is this program's, and so is its stdout."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Looking:
    """Begins a watch with a look that is this function."""

    def having(look: Callable[[], dict[int, Found]]) -> WriteWatch:
        monkeypatch.setattr(write_errors, "look", lambda *_, **__: look())
        watch = WriteWatch()
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


def test_no_process_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, before = WriteWatch(), len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "fork", refuse)
    with pytest.raises(OSError, match="the test wants this"):
        watch.look(MOUNT, NAMES)
    assert not watch.is_due(), "it is not tried at each tick"
    assert len(os.listdir("/proc/self/fd")) == before


def refuse() -> int:
    raise OSError("the test wants this")


def test_why_a_look_has_failed_is_in_the_log() -> None:
    controller = spawn(CONTROLLER, "fail")
    line = said(controller)
    controller.kill()
    controller.wait(60)
    assert line.endswith(
        "controller: the look for pages that were not written has failed: OSError('the test wants this')"
    )


def test_a_look_ends_with_the_controller() -> None:
    controller = spawn(CONTROLLER, "wait")
    look = int(said(controller))
    controller.kill()
    controller.wait(60)
    assert ended(look)
