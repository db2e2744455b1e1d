"""The daemon dies in every way that it can, and whoever uses the mount gets a pause and nothing else."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockstore.daemon.namespace.names_copy import copied_names
from blockstore.daemon.supervise import lean, supervisor
from blockstore.daemon.supervise.backoff import QUICK_DEATH_S
from blockstore.daemon.supervise.notify import Service
from blockstore.daemon.supervise.supervisor import OVERSLEPT_S, START_S, Supervisor
from tests.cli.runner import invoke
from tests.daemon.lab import (
    PROJECT,
    Lab,
    Mounted,
    ask,
    blockstore,
    cold,
    daemons_of,
    device_of,
    drop,
    end,
    ended,
    mixed_blocks,
    mounts_below,
    noisy,
    one_line,
    put,
    run,
    said,
    sha256,
    spawn,
    stop,
    supervisors_of,
    until,
)
from tests.daemon.logs import NO_ROOM, STANDS_STILL

pytestmark = pytest.mark.mount

HOLDER = """
import hashlib, mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
if len(sys.argv) > 2:
    os.unlink(sys.argv[1])
memory = mmap.mmap(descriptor, 0)
for line in sys.stdin:
    word, _, value = line.strip().partition(" ")
    if word == "sum":
        memory.flush()
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        memory.madvise(mmap.MADV_DONTNEED)
        print(hashlib.sha256(memory).hexdigest(), flush=True)
    else:
        memory[int(value) * 4096] ^= 1
        print("done", flush=True)
"""
CONTENT = b"".join(mixed_blocks(3))

OLD_KERNEL = "import blockstore.daemon.handover as handover\nhandover.can_resend = lambda init_request: False\n"
"""For the daemon: the kernel is one from before Linux 6.9."""


@contextlib.contextmanager
def holding(path: Path, *how: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has the file mapped; `ask` it for a `sum`, or to `change N`."""
    holder = spawn(HOLDER, str(path), *how)
    try:
        yield holder
    finally:
        end(holder.pid)


def pids(mounted: Mounted) -> tuple[int, int]:
    """(daemon, restarts) as `status` tells them."""
    total = mounted.total()
    assert total["supervisor_pid"] == mounted.supervisor_pid()
    return total["daemon_pid"], total["restarts"]


@pytest.mark.parametrize("number", (signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS))
@pytest.mark.logs(
    r"the daemon died \(signal (6|7|9|11)\)",
    "^daemon.stderr: Fatal Python error: (Aborted|Bus error|Segmentation fault)",
)
def test_a_killed_daemon_is_replaced(lab: Lab, number: signal.Signals) -> None:
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, CONTENT)
    with holding(path) as holder:
        wanted = ask(holder, "sum")
        for restarts in range(3):
            before = pids(mounted)
            assert before[1] == restarts
            os.kill(before[0], number)
            assert ask(holder, "sum") == wanted
            after = pids(mounted)
            assert after[0] != before[0] and after[1] == restarts + 1
            assert ask(holder, f"change {restarts}") == "done"
            wanted = ask(holder, "sum")
        assert f"signal {number}" in mounted.log()
    assert mounted.umount().returncode == 0
    assert not supervisors_of(lab.path) and not daemons_of(lab.path)


def test_a_file_without_a_name_outlives_the_daemon_and_not_its_last_user(lab: Lab) -> None:
    """QEMU unlinks the file that it makes in a memory directory."""
    mounted = lab.mount()
    put(mounted.path / "memory", CONTENT)
    with holding(mounted.path / "memory", "unlink") as holder:
        wanted = ask(holder, "sum")
        for _ in range(2):
            mounted.kill_daemon()
            assert ask(holder, "sum") == wanted
        assert mounted.total()["touched"] == len(CONTENT)
    holder.wait(60)
    until(lambda: mounted.total()["touched"] == 0, "the file is deleted with its last user")


@STANDS_STILL
def test_a_file_that_lost_its_last_user_meanwhile_is_deleted(lab: Lab) -> None:
    """Nobody was there to hear the kernel forget it."""
    mounted = lab.mount()
    put(mounted.path / "memory", CONTENT)
    holder = spawn(HOLDER, str(mounted.path / "memory"), "unlink")
    ask(holder, "sum")
    stop(mounted.daemon_pid())
    end(holder.pid)
    holder.wait(60)
    mounted.kill_daemon()
    until(lambda: mounted.total()["touched"] == 0, "the file is deleted")


@pytest.mark.logs(r"the daemon died \(signal 9\)")
def test_each_change_of_names_happens_once(lab: Lab) -> None:
    """A change that was made, but not answered, when the daemon died is asked again, and must not be made twice."""
    mounted = lab.mount()
    changes: list[Callable[[int], object]] = [
        lambda number: (mounted.path / f"folder{number}").mkdir(),
        lambda number: (mounted.path / f"folder{number}").rename(mounted.path / f"moved{number}"),
        lambda number: os.symlink("target", mounted.path / f"moved{number}/link"),
        lambda number: os.close(os.open(mounted.path / f"moved{number}/file", os.O_CREAT | os.O_EXCL | os.O_RDWR)),
        lambda number: (mounted.path / f"moved{number}/file").unlink(),
        lambda number: (mounted.path / f"moved{number}/link").unlink(),
        lambda number: (mounted.path / f"moved{number}").rmdir(),
    ]
    wanted, failures = threading.Event(), list[BaseException]()
    done = 0

    def change() -> None:
        nonlocal done
        number = 0
        try:
            while not wanted.is_set():
                number += 1
                for step in changes:
                    step(number)
                    done += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for moment in range(12):
            until(lambda: phase(mounted) == "serving" and bool(daemons_of(mounted.state)), "the next daemon")
            enough = done + 2 * len(changes)
            until(lambda: done > enough or bool(failures), "names are changed")  # noqa: B023
            time.sleep(QUICK_DEATH_S + 0.05 + moment * 0.037)
            os.kill(mounted.daemon_pid(), signal.SIGKILL)
    finally:
        wanted.set()
    thread.join()
    assert not failures, failures
    assert not os.listdir(mounted.path)


@STANDS_STILL
def test_a_hung_daemon_is_replaced(lab: Lab) -> None:
    mounted = lab.mount("--watchdog", "2")
    path = mounted.path / "memory"
    put(path, CONTENT)
    drop(path)
    before = mounted.daemon_pid()
    stop(before)
    assert cold(path) == CONTENT
    after, restarts = pids(mounted)
    assert after != before and restarts and "no sign of life" in mounted.log()


def test_the_supervisor_waits_for_a_watchdog_s_from_each_beat_on(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """That a daemon beats while it serves: test_under_systemd."""
    now_s = 0.0
    monkeypatch.setattr("blockstore.daemon.supervise.supervisor.time.monotonic", lambda: now_s)
    watching = Supervisor(str(lab.path), "{}", -1, watchdog_s=3, is_foreground=False)
    monkeypatch.setattr(watching, "_pid", os.getpid())  # whose beats count
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{watching._address}")
    service = Service()
    assert watching._left_s(0) == START_S
    for now_s in (50.0, 52.9, 60.0):
        (service.beat if watching._ready_at else lambda: service.ready([]))()
        watching._listen()
        assert watching._left_s(0) == 3
        now_s += 2
        assert watching._left_s(0) == 1
    now_s += 2
    assert watching._left_s(0) == 0


def test_a_supervisor_that_was_stopped_waits_once_more(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cgroup that is frozen stops the daemon with it."""
    now_s = 100.0
    monkeypatch.setattr("blockstore.daemon.supervise.supervisor.time.monotonic", lambda: now_s)
    watching = Supervisor(str(lab.path), "{}", -1, watchdog_s=3, is_foreground=False)
    assert not watching._spares(60), "a daemon that does not serve yet has long enough"
    watching._heed({"READY": "1"})
    now_s = 163.0
    assert not watching._spares(OVERSLEPT_S / 2) and watching._left_s(0) == 0
    assert watching._spares(60) and watching._left_s(0) == 3
    now_s = 226.0
    assert not watching._spares(60), "once for each silence"
    watching._heed({"WATCHDOG": "1"})
    assert watching._spares(60)


def test_an_error_that_cannot_be_read_does_not_end_the_supervisor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watching = Supervisor(str(tmp_path), "{}", -1, watchdog_s=3, is_foreground=False)
    watching._heed({"X_ERROR": "{"})
    assert watching._error is None
    watching._heed({"X_ERROR": '{"error": "so it is", "code": 4}'})
    assert watching._error == {"error": "so it is", "code": 4}
    monkeypatch.setitem(sys.modules, "json", None)  # there is no Python any more that has it
    watching._heed({"X_ERROR": '{"error": "so it is", "code": 4}'})
    assert watching._error is None


def test_warnings_come_through_the_supervisor_as_the_daemon_told_them(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    watching = Supervisor(str(tmp_path), "{}", writer, watchdog_s=3, is_foreground=False)
    watching._heed({"READY": "1", "X_WARNINGS": '["one\\n\\"two\\""]'})
    with os.fdopen(reader) as pipe:
        assert json.loads(pipe.read()) == {"ready": ['one\n"two"']}


def test_reload(lab: Lab) -> None:
    """Under a writer that never stops."""
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, CONTENT)
    with holding(path) as holder:
        ask(holder, "sum")
        before, _ = pids(mounted)
        for number in range(3):
            result = blockstore("reload", str(mounted.path))
            assert result.returncode == 0 and not result.stdout and not result.stderr, result
            assert ask(holder, f"change {number}") == "done"
        after, restarts = pids(mounted)
        assert after != before and restarts == 3
        changed = ask(holder, "sum")
    assert sha256(path) == changed


def test_code_that_does_not_start_is_refused(lab: Lab) -> None:
    """The state says another version than the code that is asked: as after an upgrade that cannot read it."""
    mounted = lab.mount()
    before = pids(mounted)
    superblock = mounted.state / "superblock"
    whole = superblock.read_bytes()
    superblock.write_bytes(whole[:16] + b"\x63" + whole[17:])
    one_line(blockstore("reload", str(mounted.path)), 1, "the old one goes on", "format version 99")
    superblock.write_bytes(whole)
    assert pids(mounted) == before


@pytest.mark.logs(r"the daemon died at its start \(exit code 9\)$")
def test_a_mount_whose_first_daemon_dies_is_taken_away(lab: Lab) -> None:
    """Between the mount and the first answer; and no other mount with it."""
    other = lab.mount(name="other")
    (lab.path / "sitecustomize.py").write_text(
        "import os\nfrom blockstore.daemon.fuse import throttle\nthrottle.lift = lambda device: os._exit(9)\n"
    )
    command = ["mount", str(lab.mountpoint()), "--state", str(lab.path / "state"), "--pool-limit", "64M"]
    result = blockstore(*command, PYTHONPATH=str(lab.path))
    one_line(result, 1, "the daemon died at its start (exit code 9)")
    assert mounts_below(lab.path) == [other.path]
    assert other.umount().returncode == 0


@pytest.mark.logs(
    r"supervisor: (the daemon died at its start \(exit code 1\)|the supervisor ended by an error|it came about so)",
    "^daemon.stderr: Traceback",
)
def test_a_supervisor_that_fails_leaves_the_reason(lab: Lab) -> None:
    """Here that nobody has the other end of its pipe, when it wants to say that no daemon starts."""
    state = lab.path / "state"
    state.mkdir()
    result = run(
        supervisor.command(str(state), "{}", 999, watchdog_s=1, is_foreground=False),
        PYTHONPATH=lean.environment()["PYTHONPATH"],
    )
    assert result.returncode == 1
    log = (state / "daemon.log").read_text()
    assert "CRITICAL" in log and "the supervisor ended by an error" in log and "in _report" in log, log


@pytest.mark.logs(
    "has format version 99, not", r"the daemon died \(exit code [14]\)$", "it dies again and again: waiting"
)
def test_a_daemon_that_cannot_start_pauses_and_reload_ends_the_pause(lab: Lab) -> None:
    """The mount is kept, and VMs wait; when the cause is gone they go on."""
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, CONTENT)
    drop(path)
    superblock = mounted.state / "superblock"
    whole = superblock.read_bytes()
    superblock.write_bytes(whole[:16] + b"\x63" + whole[17:])
    mounted.kill_daemon()
    reader = spawn("import sys; print(open(sys.argv[1], 'rb').read() == bytes.fromhex(sys.argv[2]))", str(path), "00")
    until(lambda: pauses_at_last(mounted), "the supervisor pauses")
    result = blockstore("status", str(mounted.path))
    one_line(result, 1, mounted.state, "format version 99", "reload")
    checked = blockstore("status", str(mounted.path), "--check")
    assert checked.returncode == 2 and checked.stdout.startswith("blockstore CRITICAL"), checked
    one_line(blockstore("reload", str(mounted.path)), 1, "format version 99")
    assert mounts_below(lab.path) == [mounted.path] and reader.poll() is None
    superblock.write_bytes(whole)
    assert blockstore("reload", str(mounted.path)).returncode == 0
    assert said(reader) == "False"
    reader.wait(60)
    assert cold(path) == CONTENT


def phase(mounted: Mounted) -> str:
    found: dict[str, str] = json.loads((mounted.state / "daemon.supervisor").read_text())
    return found["name"]


def pauses_at_last(mounted: Mounted) -> bool:
    """Does the supervisor pause? Where it only waits for the next start, do not let it wait."""
    name = phase(mounted)
    if name == "waiting":
        os.kill(mounted.supervisor_pid(), signal.SIGUSR1)
    return name == "paused"


def rests(controller: int, mounted: Mounted) -> bool:
    """Stop the controller; let it go on, and say so, if it has something of the mount open. What it has asked of a
    daemon that dies keeps it there, so that nobody can unmount."""
    stop(controller)
    links = [os.readlink(entry) for entry in Path(f"/proc/{controller}/fd").iterdir()]
    if any(link == str(mounted.path) or link.startswith(f"{mounted.path}/") for link in links):
        os.kill(controller, signal.SIGCONT)
        return False
    return True


@pytest.mark.logs(
    "the superblock of .* is damaged", r"the daemon died \(exit code [14]\)$", "it dies again and again: waiting"
)
def test_unmounted_while_nobody_serves(lab: Lab) -> None:
    mounted = lab.mount()
    superblock = mounted.state / "superblock"
    whole = superblock.read_bytes()
    put(mounted.path / "memory", CONTENT)
    controller = mounted.controller_pid()
    try:
        until(lambda: rests(controller, mounted), "the controller uses nothing of the mount")
        superblock.write_bytes(bytes(len(whole)))
        mounted.kill_daemon()
        until(lambda: phase(mounted) in ("waiting", "paused"), "it fails to start")
        assert mounted.umount().returncode == 0
    finally:
        os.kill(controller, signal.SIGKILL)
    until(lambda: not supervisors_of(lab.path), "the supervisor ends")
    assert not daemons_of(lab.path)


def test_a_lazily_detached_mount_is_served_on(lab: Lab) -> None:
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, CONTENT)
    with holding(path) as holder:
        wanted = ask(holder, "sum")
        assert mounted.umount("--force").returncode == 0 and not mounts_below(lab.path)
        mounted.kill_daemon()
        assert ask(holder, "sum") == wanted
    until(lambda: not supervisors_of(lab.path) and not daemons_of(lab.path), "both end with the last user")


def test_strangers_on_the_notify_socket(lab: Lab) -> None:
    """Its name can be read in /proc/net/unix by everybody."""
    mounted = lab.mount()
    before = pids(mounted)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger, open(os.devnull) as null:
        stranger.settimeout(10)
        for message in (b"READY=1", b"X_ERROR={", b"", os.urandom(1000), b"FDSTORE=1\nFDNAME=fuse"):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", null.fileno()))]
            stranger.sendmsg([message], rights, 0, notify_socket(mounted))
    mounted.kill_daemon()
    assert pids(mounted) == (mounted.daemon_pid(), before[1] + 1)


def notify_socket(mounted: Mounted) -> str:
    """The abstract address at which the supervisor listens."""
    folder = Path(f"/proc/{mounted.supervisor_pid()}/fd")
    inodes = {os.readlink(link).strip("socket:[]") for link in folder.iterdir()}
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    (name,) = [line[7] for line in lines if line[6] in inodes and line[-1].startswith("@blockstore-")]
    return "\0" + name[1:]


@STANDS_STILL
def test_a_stopped_supervisor_does_not_stop_the_daemon(lab: Lab) -> None:
    """Its beats pile up in the supervisor's queue until that is full."""
    mounted = lab.mount("--watchdog", "4")  # a beat a second, as the controller looks
    put(mounted.path / "memory", CONTENT)
    supervisor = mounted.supervisor_pid()
    stop(supervisor)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    stranger.sendto(b"", notify_socket(mounted))
        mounted.controller_ticks()
        assert cold(mounted.path / "memory") == CONTENT and mounted.total()["touched"] == len(CONTENT)
    finally:
        os.kill(supervisor, signal.SIGCONT)
    until(lambda: mounted.serves(), "the mount serves")
    assert cold(mounted.path / "memory") == CONTENT


def test_a_dead_supervisor_does_not_harm(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "memory", CONTENT)
    supervisor = mounted.supervisor_pid()
    os.kill(supervisor, signal.SIGKILL)
    assert ended(supervisor)
    assert cold(mounted.path / "memory") == CONTENT
    total = mounted.total()
    assert total["supervisor_pid"] is None and not total["can_be_replaced"]
    assert invoke("status", str(mounted.path), "--check").returncode == 1
    one_line(blockstore("reload", str(mounted.path)), 1, "cannot be replaced")
    assert mounted.umount().returncode == 0
    until(lambda: not daemons_of(lab.path), "the daemon ends")


def test_the_pool_limit_that_was_set_outlives_the_daemon(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="64M")
    assert blockstore("set", str(mounted.path), "--pool-limit", "96M").returncode == 0
    mounted.kill_daemon()
    assert mounted.total()["pool_limit"] == 96 << 20


def test_sigterm_to_the_supervisor_unmounts(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "memory", CONTENT)
    os.kill(mounted.supervisor_pid(), signal.SIGTERM)
    until(lambda: not supervisors_of(lab.path) and not mounts_below(lab.path), "the mount ends")
    assert cold(lab.mount(state=mounted.state).path / "memory") == CONTENT


@pytest.mark.logs("the mount has ended, and whoever uses it gets errors")
def test_on_an_old_kernel_the_mount_ends_with_its_daemon(lab: Lab) -> None:
    """One that cannot ask again: a process that waits gets an error instead of waiting for ever."""
    (lab.path / "sitecustomize.py").write_text(OLD_KERNEL)
    mounted = Mounted(lab.mountpoint(), lab.path / "mnt.state")
    command = ["mount", str(mounted.path), "--state", str(mounted.state), "--pool-limit", "64M"]
    result = blockstore(*command, PYTHONPATH=str(lab.path))
    assert result.returncode == 0 and "this kernel cannot hand requests over to a new daemon" in result.stderr, result
    assert not mounted.total()["can_be_replaced"]
    put(mounted.path / "memory", CONTENT)
    mounted.kill_daemon()
    until(lambda: not supervisors_of(lab.path), "the supervisor ends")
    assert run(["stat", str(mounted.path / "memory")]).returncode != 0
    assert "the mount has ended" in mounted.log()


class ServiceManager:
    """systemd's side of the protocol, written from its man pages: NOTIFY_SOCKET, FDSTORE, LISTEN_FDS."""

    def __init__(self, folder: Path, watchdog_s: float = 10) -> None:
        self.watchdog_s = watchdog_s
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.address = str(folder / "notify")
        self.socket.bind(self.address)
        self.socket.settimeout(30)
        self.kept: dict[str, int] = {}

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Start the service with what it left; bash knows its own process number before it becomes the service."""
        environment = {**os.environ, "NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": f"{self.watchdog_s * 1e6:.0f}"}
        shell = ["bash", "-c", 'exec "$@"', "bash"]
        descriptors = list(self.kept.values())
        if self.kept:
            environment |= {"LISTEN_FDS": str(len(self.kept)), "LISTEN_FDNAMES": ":".join(self.kept)}
            shell[2] = f'exec 3<&{descriptors[0]} {descriptors[0]}<&-; export LISTEN_PID=$$; exec "$@"'
        return subprocess.Popen(
            [*shell, *command], env=environment, pass_fds=descriptors, stderr=subprocess.DEVNULL, cwd=PROJECT
        )

    def wait_for(self, key: str) -> None:
        """Take messages until one has KEY=1."""
        while True:
            data, descriptors, _, _ = socket.recv_fds(self.socket, 65536, 4)
            lines = dict(line.split("=", 1) for line in data.decode().splitlines())
            if lines.get("FDSTORE") == "1":
                self.kept[lines["FDNAME"]] = descriptors[0]
            if lines.get(key) == "1":
                return


def test_under_systemd(lab: Lab) -> None:
    """The daemon knows one protocol, and our supervisor is not in it."""
    manager, path, state = ServiceManager(lab.path, watchdog_s=1), lab.mountpoint(), lab.path / "state"
    command = [sys.executable, "-m", "blockstore", "mount", "--foreground", str(path), "--state", str(state)]
    service = manager.start([*command, "--pool-limit", "64M"])
    try:
        manager.wait_for("READY")
        assert list(manager.kept) == ["fuse"] and not supervisors_of(lab.path)
        put(path / "memory", CONTENT)
        for _ in range(3):
            manager.wait_for("WATCHDOG")
        holder = spawn(HOLDER, str(path / "memory"))
        wanted = ask(holder, "sum")
        service.kill()
        service.wait(60)
        service = manager.start([*command, "--pool-limit", "64M"])
        manager.wait_for("READY")
        assert ask(holder, "sum") == wanted
        total = json.loads(blockstore("status", str(path), "--json").stdout)["total"]
        assert total["restarts"] == 1 and total["daemon_pid"] == service.pid and total["supervisor_pid"] == os.getpid()
        end(holder.pid)
        assert blockstore("umount", str(path)).returncode == 0
        assert service.wait(60) == 0
    finally:
        service.kill()


def test_a_descriptor_of_another_mount_is_refused(lab: Lab) -> None:
    """What systemd kept for one mount must not come to serve another."""
    managers = {name: ServiceManager(lab.mountpoint(f"{name}-manager")) for name in ("one", "two")}
    services = {}
    try:
        for name, manager in managers.items():
            services[name] = manager.start(
                [*(sys.executable, "-m", "blockstore", "mount", "--foreground", str(lab.mountpoint(name))),
                 *("--state", str(lab.path / f"{name}.state"), "--pool-limit", "64M")]
            )  # fmt: skip
            manager.wait_for("READY")
        put(lab.path / "one/memory", CONTENT)
        services["two"].kill()
        services["two"].wait(60)
        other, managers["two"].kept = managers["two"].kept, dict(managers["one"].kept)
        before = (lab.path / "two.state/daemon.handover").read_bytes()
        wrong = managers["two"].start(
            [*(sys.executable, "-m", "blockstore", "mount", "--foreground", str(lab.path / "two")),
             *("--state", str(lab.path / "two.state"), "--pool-limit", "64M")]
        )  # fmt: skip
        assert wrong.wait(30) == 1
        assert (lab.path / "two.state/daemon.handover").read_bytes() == before
        assert cold(lab.path / "one/memory") == CONTENT
        assert device_of(lab.path / "one") != device_of(lab.path / "two") and other
    finally:
        for service in services.values():
            service.kill()


def test_two_mounts_of_one_state_at_once(lab: Lab) -> None:
    """One wins, and the other one takes nothing away from it."""
    state = lab.path / "state"
    for number in range(3):
        places = [lab.mountpoint(f"one{number}"), lab.mountpoint(f"two{number}")]
        starts = [
            subprocess.Popen(
                [sys.executable, "-m", "blockstore", "mount", str(place), "--state", str(state), "--pool-limit", "64M"],
                stderr=subprocess.PIPE,
                text=True,
                cwd=PROJECT,
            )
            for place in places
        ]
        words = [start.communicate(timeout=60)[1] for start in starts]
        codes = [start.returncode for start in starts]
        assert sorted(codes) == [0, 3], words
        winner = places[codes.index(0)]
        assert mounts_below(lab.path) == [winner]
        assert sorted(os.listdir(winner)) == [f"memory{each}" for each in range(number)]
        put(winner / f"memory{number}", CONTENT)
        mounted = Mounted(winner, state)
        assert "the mount has ended" not in mounted.log(), "the other one was none"
        mounted.kill_daemon()
        assert all(cold(winner / f"memory{each}") == CONTENT for each in range(number + 1))
        assert mounted.umount().returncode == 0


def test_a_refused_mount_leaves_the_running_one_alone(lab: Lab) -> None:
    mounted = lab.mount()
    (lab.path / "link").symlink_to(mounted.state)
    for name in ("link", "mnt.state"):
        refused = blockstore("mount", str(lab.mountpoint("other")), "--state", str(lab.path / name))
        one_line(refused, 3, "in use")
    assert phase(mounted) == "serving"
    assert blockstore("reload", str(mounted.path)).returncode == 0


@pytest.mark.logs(r"the daemon died \(signal 9\)", "it dies again and again: waiting", "stays mounted ")
def test_a_crash_after_a_refused_end_is_a_crash_like_any_other(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "memory", CONTENT)
    with holding(mounted.path / "memory") as holder:
        wanted = ask(holder, "sum")
        while phase(mounted) != "waiting":
            for pid in daemons_of(mounted.state):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        os.kill(mounted.supervisor_pid(), signal.SIGTERM)
        until(lambda: "stays mounted" in mounted.log(), "the daemon says that the mount is in use")
        mounted.kill_daemon()
        assert ask(holder, "sum") == wanted and mounts_below(lab.path) == [mounted.path]


@pytest.mark.logs("the mount is detached from the tree")
def test_the_end_of_a_detached_mount_is_not_the_end_of_another_one(lab: Lab) -> None:
    first = lab.mount()
    put(first.path / "memory", CONTENT)
    with holding(first.path / "memory") as holder:
        wanted = ask(holder, "sum")
        old_supervisor = first.supervisor_pid()
        assert first.umount("--force").returncode == 0
        again = blockstore("mount", str(first.path), "--state", str(first.state))
        one_line(again, 3, first.state)
        second = lab.mount(state=lab.path / "second")
        before = first.daemon_pid()
        os.kill(old_supervisor, signal.SIGTERM)
        until(lambda: "is detached" in first.log(), "the old daemon has heard")
        assert mounts_below(lab.path) == [second.path] and first.daemon_pid() == before
        assert ask(holder, "sum") == wanted
    until(lambda: not daemons_of(first.state), "the old daemon ends with the last user")
    assert second.umount().returncode == 0


@NO_ROOM
def test_a_full_file_system_under_the_state(lab: Lab) -> None:
    """The next daemon starts without room, and deleting files makes some."""
    tiny = lab.mountpoint("tiny")
    assert run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(tiny)]).returncode == 0
    state, path = tiny / "state", lab.mountpoint()
    assert blockstore("mount", str(path), "--state", str(state), "--pool-limit", "64M").returncode == 0
    mounted = Mounted(path, state)
    for number in range(3):
        put(path / f"file{number}", noisy(4 << 20, number))
    writer = spawn(
        "import os, sys\nfile = open(sys.argv[1], 'wb')\nfile.write(os.urandom(40 << 20))\nfile.flush()\nprint('done')",
        str(path / "big"),
    )
    try:
        until(lambda: invoke("status", str(path), "--check").returncode == 2, "it is full")
        for number in range(3):
            mounted.kill_daemon()
            assert cold(path / "file0") == noisy(4 << 20, 0), f"after kill {number}"
        assert mounted.total()["restarts"] == 3
        end(writer.pid)
        writer.wait(60)
        for name in ("big", "file1"):
            assert run(["rm", str(path / name)]).returncode == 0
        put(path / "new", noisy(2 << 20, "new"))
        assert cold(path / "new") == noisy(2 << 20, "new") and cold(path / "file2") == noisy(4 << 20, 2)
    finally:
        end(writer.pid)
    assert mounted.umount().returncode == 0


def test_a_damaged_row_is_mended_by_the_next_daemon(lab: Lab) -> None:
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, CONTENT)
    drop(path)
    with (mounted.state / "volume-2").open("rb") as volume:
        volume.seek(4096 + 8 * 40)
        row = int.from_bytes(volume.read(4), "little")
    with (mounted.state / "rows-where").open("r+b") as rows:
        rows.seek(8 * row + 7)
        byte = rows.read(1)[0]
        rows.seek(8 * row + 7)
        rows.write(bytes([byte ^ 0x80]))
    mounted.kill_daemon()
    assert cold(path) == CONTENT
    assert blockstore("verify", str(mounted.path)).returncode == 0 and mounted.total()["lost_blocks"] == 0


@pytest.mark.logs(r"the daemon died \(signal 9\)")
def test_handles_are_not_given_twice(lab: Lab) -> None:
    """An open that was done, but not answered, is not done again: the file would count one writer for ever."""
    mounted = lab.mount()
    script = (
        "import os, sys\n"
        "while True:\n"
        "    for number in range(20):\n"
        "        os.close(os.open(f'{sys.argv[1]}/file{number}', os.O_RDWR | os.O_CREAT))\n"
    )
    opener = spawn(script, str(mounted.path))
    for moment in range(15):
        until(lambda: phase(mounted) == "serving" and bool(daemons_of(mounted.state)), "the next daemon")
        time.sleep(QUICK_DEATH_S + 0.05 + moment * 0.013)
        os.kill(mounted.daemon_pid(), signal.SIGKILL)
    end(opener.pid)
    opener.wait(30)
    until(lambda: not handles(mounted), "what the kernel closes afterwards is closed")
    assert mounted.umount().returncode == 0
    assert not handles(mounted)


def handles(mounted: Mounted) -> dict[int, tuple[int, bool]]:
    """The open files, as the next daemon would find them."""
    with copied_names(mounted.state) as names:
        return names.handles()
