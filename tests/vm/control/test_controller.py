"""The controller of a mount: VMs, played by processes that map a file, are held down from outside."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from blockstore.daemon.control import client
from blockstore.vm.control.controller import Controller
from blockstore.vm.memory import cgroups
from blockstore.vm.memory.cgroups import Cgroup
from tests.cli.runner import invoke
from tests.daemon.lab import (
    Lab,
    Mounted,
    ask,
    blockstore,
    drop,
    end,
    ended,
    noisy,
    one_line,
    put,
    said,
    sha256,
    spawn,
    stop,
    until,
)
from tests.daemon.logs import NO_ROOM
from tests.vm.kept_pages import kept

pytestmark = pytest.mark.mount

IN_OPEN = 0x20  # linux/inotify.h
_libc = ctypes.CDLL(None, use_errno=True)

MIB = 1 << 20

VM = """
import ctypes, mmap, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(descriptor, 0)
os.close(descriptor)
mapping.madvise(mmap.MADV_RANDOM)
pages = len(mapping) // 4096
print("ready", flush=True)
for line in sys.stdin:
    what, *arguments = line.split()
    if what == "touch":
        first, count = map(int, arguments)
        sum(mapping[page * 4096] for page in range(first, first + count))
    elif what == "write":
        first, count = map(int, arguments)
        for page in range(first, first + count):
            mapping[page * 4096] ^= 1
    elif what == "work":  # on a part of the memory, several times
        count, times = map(int, arguments)
        for _ in range(times):
            for page in range(count):
                mapping[page * 4096]
            time.sleep(0.05)
    print("done", flush=True)
"""


@contextlib.contextmanager
def vm(mounted: Mounted, size_bytes: int = 32 * MIB, cgroup: Cgroup | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that has a file named `vm` mapped, none of which is resident."""
    put(mounted.path / "vm", noisy(size_bytes // 2, 1) + bytes(range(256)) * (size_bytes // 512))
    drop(mounted.path / "vm")
    process = spawn(VM, str(mounted.path / "vm"))
    try:
        if cgroup is not None:
            cgroup.enter(process.pid)
        assert said(process) == "ready"
        yield process
    finally:
        end(process.pid)


@contextlib.contextmanager
def own_cgroup() -> Iterator[Cgroup | None]:
    """A cgroup for a VM that somebody else starts; None where there can be none."""
    try:
        made = cgroups.create("libvirt", cgroups.home())
    except LookupError:
        yield None
        return
    try:
        yield made
    finally:
        made.kill()
        made.remove()


def attach(process: subprocess.Popen[str], *options: str) -> subprocess.CompletedProcess[str]:
    result = blockstore("attach", str(process.pid), *options)
    assert result.returncode == 0 and not result.stdout, result
    return result


def figures(mounted: Mounted) -> dict[str, Any]:
    volume: dict[str, Any] = mounted.status()["volumes"]["vm"]
    return volume


@pytest.fixture
def mounted(shared: Mounted) -> Mounted:
    """The mount of the tests that need none of their own."""
    return shared


def test_refaults_are_counted_exactly(mounted: Mounted) -> None:
    with vm(mounted) as process:
        before = figures(mounted)["refaults"]
        ask(process, "touch 100 333")
        assert figures(mounted)["refaults"] - before == 333
        with kept(mounted.path / "vm", 100 * 4096, 333 * 4096):
            ask(process, "touch 100 333")
            assert figures(mounted)["refaults"] - before == 333, "these are resident"
        mounted.evict()
        ask(process, "touch 0 10")
        assert figures(mounted)["refaults"] - before == 343
        (mounted.path / "other").write_bytes(bytes(MIB))
        assert mounted.status()["volumes"]["other"]["refaults"] == 0
    (mounted.path / "holes").touch()
    os.truncate(mounted.path / "holes", MIB)
    (mounted.path / "holes").read_bytes()
    assert mounted.status()["volumes"]["holes"]["refaults"] == 0, "what was never written cannot have been evicted"


@pytest.mark.parametrize("way", ["cgroup", "madvise"])
def test_a_fixed_size_is_held(mounted: Mounted, way: str) -> None:
    with own_cgroup() as cgroup:
        if way == "cgroup" and cgroup is None:
            pytest.skip("no memory cgroup can be made here")
        with vm(mounted, cgroup=cgroup if way == "cgroup" else None) as process:
            ask(process, "write 0 8192")
            assert figures(mounted)["resident"] > 16 * MIB
            warned = attach(process, "--resident", "8M").stderr
            assert ("madvise" in warned) == (way == "madvise"), warned
            until(lambda: figures(mounted)["resident"] <= 8 * MIB, "the VM is held at its size")
            until(lambda: figures(mounted)["controller"]["mechanism"] is not None, "the controller has told how")
            control = figures(mounted)["controller"]
            assert control["pid"] == process.pid and control["wanted"] == 8 * MIB
            assert control["mechanism"] == (cgroup.version if way == "cgroup" and cgroup else "madvise")
            assert figures(mounted)["resident"] >= 2 * MIB, "no more is taken than was asked for"
            ask(process, "touch 0 8192")
            until(lambda: figures(mounted)["resident"] <= 8 * MIB, "again")
            shown = invoke("status", str(mounted.path)).stdout
            assert "Resident part, controlled" in shown and "8.0 MiB" in shown
    want = bytearray(noisy(16 * MIB, 1) + bytes(range(256)) * (16 * MIB // 256))
    want[::4096] = bytes(byte ^ 1 for byte in want[::4096])
    (mounted.path / "want").write_bytes(want)
    assert sha256(mounted.path / "vm") == sha256(mounted.path / "want")


@pytest.mark.parametrize("way", ["cgroup", pytest.param("madvise", marks=pytest.mark.nightly)])
def test_auto_leaves_the_working_set(mounted: Mounted, way: str) -> None:
    with own_cgroup() as cgroup:
        if way == "cgroup" and cgroup is None:
            pytest.skip("no memory cgroup can be made here")
        with vm(mounted, 64 * MIB, cgroup if way == "cgroup" else None) as process:
            ask(process, "touch 0 16384")
            attach(process, "--resident", "auto", "--target", "5")

            def has_left() -> bool:
                ask(process, "work 4096 20")
                return bool(figures(mounted)["resident"] < 56 * MIB)

            until(has_left, "what is not used has left")
            before = figures(mounted)["refaults"]
            ask(process, "work 4096 60")
            share = (figures(mounted)["refaults"] - before) / (4096 * 60)
            assert share < 0.25, "what is used has mostly stayed"


def test_the_end_of_a_vm_ends_its_control(lab: Lab) -> None:
    mounted = lab.mount()
    with vm(mounted) as process:
        attach(process, "--resident", "8M")
        until(lambda: figures(mounted)["controller"]["mechanism"] is not None, "the controller knows it")
        blockstore("attach", str(process.pid), "--off")
        assert figures(mounted)["controller"]["wanted"] == "off"
        attach(process)
        until(lambda: figures(mounted)["controller"]["mechanism"] is not None, "the controller knows it again")
    until(lambda: figures(mounted)["controller"] is None, "it is forgotten")
    assert (mounted.path / "vm").exists(), "the file is whoever's who made it"
    assert mounted.umount().returncode == 0


def test_the_file_of_a_vm_is_not_cut_off_under_it(mounted: Mounted) -> None:
    with vm(mounted) as process:
        attach(process)
        for cut_off in (lambda: os.truncate(mounted.path / "vm", MIB), lambda: (mounted.path / "vm").open("wb")):
            with pytest.raises(OSError) as refused:
                cut_off()
            assert refused.value.errno == errno.ETXTBSY
        ask(process, "touch 0 8192")
        os.truncate(mounted.path / "vm", 33 * MIB)
    until(lambda: figures(mounted)["controller"] is None, "the VM has ended")
    os.truncate(mounted.path / "vm", MIB)


def test_private_memory_is_refused(mounted: Mounted) -> None:
    put(mounted.path / "vm", noisy(MIB, 1))
    private = VM.replace("mmap.mmap(descriptor, 0)", "mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE)")
    process = spawn(private, str(mounted.path / "vm"))
    try:
        assert said(process) == "ready"
        one_line(invoke("attach", process.pid), 2, process.pid, "share=on")
    finally:
        end(process.pid)


def test_a_detached_mount_ends_with_its_vm(lab: Lab) -> None:
    mounted = lab.mount()
    with vm(mounted) as process:
        attach(process, "--resident", "8M")
        until(lambda: figures(mounted)["controller"]["mechanism"] is not None, "the controller knows it")
        supervisor = mounted.supervisor_pid()
        assert mounted.umount("--force").returncode == 0
        ask(process, "touch 0 100")
        mounted.controller_ticks()
        assert not ended(supervisor, 0)
    assert ended(supervisor), "the controller has let go of the file"


@pytest.mark.logs(r"the controller ended \(exit code -9\); starting another one")
def test_control_goes_on_with_the_next_daemon(lab: Lab) -> None:
    mounted = lab.mount()
    with vm(mounted) as process:
        attach(process, "--resident", "8M")
        old = mounted.controller_pid()
        mounted.kill_daemon()
        assert ended(old), "a controller ends with its daemon"
        ask(process, "touch 0 8192")
        until(lambda: figures(mounted)["resident"] <= 8 * MIB, "the next controller holds it")
        os.kill(mounted.controller_pid(), signal.SIGKILL)
        ask(process, "touch 0 8192")
        until(lambda: figures(mounted)["resident"] <= 8 * MIB, "and the one after that")
        stopped = mounted.controller_pid()
        stop(stopped)
        ask(process, "touch 0 8192")
        assert figures(mounted)["resident"] > 16 * MIB, "one that hangs hurts nobody"
        os.kill(stopped, signal.SIGCONT)
        until(lambda: figures(mounted)["resident"] <= 8 * MIB, "it goes on")


def opened_meanwhile(place: Path, action: Callable[[], None]) -> int:
    """Returns how often this file or directory is opened during the action (inotify(7))."""
    watch = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        assert _libc.inotify_add_watch(watch, os.fsencode(place), IN_OPEN) >= 0
        action()
        with contextlib.suppress(BlockingIOError):
            return len(os.read(watch, 1 << 16)) // 16
        return 0
    finally:
        os.close(watch)


def test_a_fresh_mount_can_be_unmounted_at_once(lab: Lab) -> None:
    """umount(8) finds a mount busy while the controller has one of its files open."""
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, noisy(MIB, 1))
    stopped = mounted.controller_pid()
    stop(stopped)  # ours is to be the only one that looks
    assert opened_meanwhile(path, Controller(mounted.state, mounted.path, mounted.daemon_pid()).tick) == 0
    mounted.kill_daemon()
    os.kill(stopped, signal.SIGKILL)  # it cannot see that its daemon has gone
    until(lambda: mounted.serves(), "the next daemon serves")
    assert opened_meanwhile(path, Controller(mounted.state, mounted.path, mounted.daemon_pid()).tick) > 0, (
        "something may have been lost"
    )


def test_a_controller_whose_daemon_was_replaced_looks_no_more_and_ends(lab: Lab) -> None:
    """The kernel tells of a lost page once: what it found, nobody would be told."""
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, noisy(MIB, 1))
    stopped = mounted.controller_pid()
    stop(stopped)
    before = mounted.daemon_pid()
    mounted.kill_daemon()
    os.kill(stopped, signal.SIGKILL)
    until(lambda: mounted.serves(), "the next daemon serves")
    late = Controller(mounted.state, mounted.path, before)
    assert opened_meanwhile(path, late.tick) == 0
    assert late.run() == 0


WITHOUT_CONTROLLER = """
from blockstore.daemon.supervise.companion import Companion
Companion._start = lambda companion: None
"""


def test_what_a_controller_has_looked_at_before_its_daemon_died_is_no_look_for_the_next_one(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unmount would not wait for one, and pages that the dead daemon has lost would leave as if they were clean."""
    (lab.path / "sitecustomize.py").write_text(WITHOUT_CONTROLLER)
    monkeypatch.setenv("PYTHONPATH", str(lab.path))
    mounted = lab.mount()
    put(mounted.path / "memory", noisy(MIB, 1))

    def has_looked() -> bool:
        return bool(client.ask(mounted.state, {"do": "hello"})["has_looked"])

    late = Controller(mounted.state, mounted.path, mounted.daemon_pid())
    late.tick()
    mounted.kill_daemon()
    until(lambda: mounted.serves(), "the next daemon serves")
    assert late.run() == 0
    assert not has_looked()
    own = Controller(mounted.state, mounted.path, mounted.daemon_pid())

    def tells_of_a_look() -> bool:
        own.tick()
        return has_looked()

    until(tells_of_a_look, "its own controller has looked")


@NO_ROOM
def test_no_controller_works_against_a_full_pool(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="24M")
    with vm(mounted) as process:
        attach(process, "--resident", "4M")
        filler = spawn(
            "import os, sys; os.write(os.open(sys.argv[1], os.O_RDWR | os.O_CREAT), os.urandom(64 << 20))",
            str(mounted.path / "filler"),
        )
        try:
            until(lambda: mounted.total()["stalled"] > 0, "the pool is full")
            ask(process, "touch 0 100")
            assert blockstore("set", str(mounted.path), "--pool-limit", "256M").returncode == 0
            filler.wait(60)
        finally:
            end(filler.pid)
        until(lambda: figures(mounted)["resident"] <= 4 * MIB, "and then it goes on")


def test_bad_input(mounted: Mounted, tmp_path: Path) -> None:
    for arguments, words in (
        (["999999999"], ["999999999"]),
        ([str(os.getpid())], [str(os.getpid()), "maps no file"]),
        (["0"], ["no process 0"]),
        ([str(os.getpid()), "--resident", "lots"], ["lots", "256M"]),
        ([str(os.getpid()), "--resident", "1K"], ["too small"]),
        ([str(os.getpid()), "--target", "0"], ["target"]),
        ([str(os.getpid()), "--mount", str(tmp_path)], [str(tmp_path)]),
    ):
        result = invoke("attach", *arguments)
        assert result.returncode in (1, 2) and result.stderr.startswith("blockstore: "), result
        assert result.stderr.count("\n") == 1 and all(word in result.stderr for word in words), result
    assert mounted.status()["volumes"] == {}
