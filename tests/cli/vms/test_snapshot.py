"""`blockstore snapshot` and `snapshots`: whatever goes wrong, the VM goes on, and nothing half-made is left."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockstore.daemon.host import mounts
from blockstore.daemon.namespace.snapshot_names import PARTIAL
from blockstore.errors import BlockstoreError, VmError
from blockstore.vm.qemu import monitor, qmp_sockets, running
from blockstore.vm.qemu.monitor import Monitor
from blockstore.vm.snapshot import device_state, guard, snapshot_file, take
from tests.cli.runner import invoke
from tests.cli.vms.test_run import NAME, QEMU, on, qemu_of
from tests.cli.vms.test_run import running as started
from tests.daemon.lab import (
    NEEDS_QEMU,
    UNTIL_S,
    Lab,
    Mounted,
    blockstore,
    end,
    noisy,
    one_line,
    put,
    run,
    said,
    spawn,
    until,
)
from tests.daemon.logs import NO_ROOM

pytestmark = [
    pytest.mark.mount,
    NEEDS_QEMU,
]

MIB = 1 << 20
RUNS = QEMU[:-1]
"""A machine that runs its firmware, and finds nothing to start."""

KILLED = """
import os, signal, sys
from blockstore.cli.main import main
from blockstore.vm.snapshot import disks, overlays, snapshot_file
from blockstore.vm import file_work
from blockstore.vm.fork import fork
from blockstore.vm.qemu import monitor
place, command = sys.argv[1].rpartition(":")[::2]
known = {"Monitor": monitor.Monitor, "FileWork": file_work.FileWork, "file": snapshot_file, "fork": fork}
known |= {"Moving": disks.Moving, "overlays": overlays}
owner, name = known[place.split(".")[0]], place.split(".")[1]
real = getattr(owner, name)
number = signal.SIGINT if "SIGINT" in os.environ else signal.SIGKILL
signal.signal(signal.SIGINT, signal.default_int_handler)
def dies(*arguments, **options):
    if command == "before":
        os.kill(os.getpid(), number)
    result = real(*arguments, **options)
    if command in ("after", arguments[1]):
        os.kill(os.getpid(), number)
    return result
setattr(owner, name, dies)
sys.exit(main(sys.argv[2:]))
"""
"""Kills itself at a call of the method PLACE:before, or PLACE:after, or when the QMP command was answered; or, with
SIGINT in its environment, is interrupted there."""

WRITER_WAITS = """
import os, random, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for number in range(32):
    os.write(descriptor, random.Random(number).randbytes(1 << 20))
"""
"""Writes more than there is room for, and waits."""

FAKE = """
import json, mmap, os, socket, sys, time
file, path, told, trouble, command = sys.argv[1:6]
memory = mmap.mmap(os.open(file, os.O_RDWR), 0)
size = len(memory)
answers = {
    "query-migrate-capabilities": [{"capability": "x-ignore-shared", "state": False}],
    "query-memdev": [{"id": "ram0", "size": size, "share": True}],
    "query-version": {"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""},
    "query-status": {"running": True, "status": "running"},
    "query-commands": [{"name": "snapshot-save"}],
}
if trouble == "old":
    answers["query-migrate-capabilities"] = []
if trouble == "quite old":
    answers["query-commands"] = [{"name": "migrate"}]
if trouble == "elsewhere":
    answers["query-memdev"].append({"id": "ram1", "size": 1 << 30, "share": False})
def requests(client):
    text = ""
    while part := client.recv(1 << 16).decode():
        text += part
        while text := text.lstrip():
            asked, end = json.JSONDecoder().raw_decode(text)
            text = text[end:]
            yield asked
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(4)
print("listens", flush=True)
stopped = "io-error" if trouble == "io-error" else "paused"
while True:
    client = listener.accept()[0]
    if trouble == "hang" and command == "greeting":
        time.sleep(60)
    client.sendall(json.dumps({"QMP": {"version": answers["query-version"], "capabilities": []}}).encode() + b"\\n")
    for asked in requests(client):
        name = asked["execute"]
        with open(told, "a") as log:
            log.write(name + "\\n")
        if name == command:
            if trouble == "hang":
                time.sleep(3)
            if trouble == "vanish":
                os._exit(0)
        if name == command and trouble == "refuse":
            reply = {"error": {"class": "GenericError", "desc": "no such thing"}}
        elif name == "qom-get":
            reply = {"return": "pc-machine" if asked["arguments"]["property"] == "type" else file}
        else:
            reply = {"return": answers.get(name, {})}
        if name in ("stop", "cont"):
            answers["query-status"] = {"running": name == "cont", "status": "running" if name == "cont" else stopped}
        if name == "snapshot-save":
            answers["query-jobs"] = [{"id": asked["arguments"]["job-id"], "status": "running"}]
        try:
            client.sendall(json.dumps(reply | {"id": asked.get("id")}).encode() + b"\\n")
        except OSError:
            break
"""
"""Has a file mapped, as QEMU has, and answers QMP: all right, or with the TROUBLE at COMMAND."""


@pytest.fixture
def mounted(shared: Mounted) -> Mounted:
    """The mount of the tests that need none of their own."""
    return shared


def snapshot(mounted: Mounted, *arguments: str) -> subprocess.CompletedProcess[str]:
    return blockstore("snapshot", *on(mounted), *arguments)


def listed(mounted: Mounted) -> list[str]:
    result = blockstore("snapshots", *on(mounted), "--json")
    assert result.returncode == 0 and not result.stderr, result
    return list(json.loads(result.stdout))


def hidden(mounted: Mounted) -> list[str]:
    return sorted(name for name in os.listdir(mounted.path) if name.startswith("."))


def is_running(mounted: Mounted) -> bool:
    volume = (mounted.path / NAME).stat().st_ino
    with Monitor(qmp_sockets.path_of(mounted.state, qmp_sockets.QMP, volume), NAME) as asked:
        capabilities = {each["capability"]: each["state"] for each in asked.execute("query-migrate-capabilities")}
        return bool(asked.execute("query-status")["running"]) and not capabilities[running.IGNORE_SHARED]


def test_snapshots_come_and_go(mounted: Mounted) -> None:
    with started(mounted, command=RUNS):
        result = snapshot(mounted, NAME, "base", "--verbose")
        assert result.returncode == 0 and "stood still for" in result.stderr and not result.stdout, result
        assert is_running(mounted) and listed(mounted) == ["base"] and hidden(mounted) == [".base.snapshot"]
        one_line(invoke("snapshot", *on(mounted), NAME, "base"), 3, "base", "snapshots delete")
        assert snapshot(mounted, NAME, "second").returncode == 0
        fields = json.loads(blockstore("snapshots", "show", "second", *on(mounted), "--json").stdout)
        assert fields["vm"] == NAME and fields["memory"] == 64 * MIB and fields["qemu"]
        assert fields["device_state"] > 1000
        assert fields["unique"] < fields["touched"] // 4, "the VM has done next to nothing between the two"
        table = blockstore("snapshots", *on(mounted)).stdout.splitlines()
        assert [line.split()[0] for line in table] == ["snapshot", "base", "second"] and "64.0 MiB" in table[1]
        assert blockstore("snapshots", "delete", "base", *on(mounted)).returncode == 0
        assert listed(mounted) == ["second"]
        one_line(invoke("snapshots", "delete", "base", *on(mounted)), 2, "base", "lists those")


def test_in_a_domain_and_to_another_place(mounted: Mounted, tmp_path: Path) -> None:
    with started(mounted, name=f"blue/{NAME}", command=RUNS):
        assert snapshot(mounted, f"blue/{NAME}", "base").returncode == 0
    assert listed(mounted) == ["blue/base"]
    one_line(invoke("restore", *on(mounted), "base", "--as", "vm2"), 2, "blue/vm2", "domain")
    one_line(invoke("snapshots", "export", "base", f"{tmp_path}/nowhere/", *on(mounted)), 2, "mkdir")
    assert blockstore("snapshots", "export", "base", str(tmp_path), *on(mounted)).returncode == 0
    exported = tmp_path / "base.bsnap"
    one_line(invoke("snapshots", "export", "base", str(tmp_path), *on(mounted)), 3, exported)
    assert blockstore("snapshots", "import", str(exported), *on(mounted)).returncode == 0
    one_line(invoke("snapshots", "import", str(exported), *on(mounted)), 3, "base")
    one_line(invoke("snapshots", "import", str(exported), "--as", "no/x", *on(mounted)), 2, "mkdir")
    assert listed(mounted) == ["base", "blue/base"]
    os.truncate(exported, exported.stat().st_size - 1)
    one_line(invoke("snapshots", "import", str(exported), "--as", "cut", *on(mounted)), 2, exported, "cut off")
    one_line(invoke("snapshots", "import", "/nowhere", *on(mounted)), 2, "/nowhere")
    assert listed(mounted) == ["base", "blue/base"] and hidden(mounted) == [".base.snapshot"]


MOMENTS = ["FileWork.flush:before", "Monitor.execute:blockdev-add", "Monitor.execute:stop"]
MOMENTS += ["Monitor.execute:snapshot-save", "FileWork.clone:before"]
MOMENTS += ["FileWork.clone:after", "Monitor.execute:cont", "FileWork.append:before", "file.publish:before"]


def test_killed_at_any_moment(mounted: Mounted) -> None:
    with started(mounted, command=RUNS):
        for moment in MOMENTS:
            killed = run([sys.executable, "-c", KILLED, moment, "snapshot", *on(mounted), NAME, "base"])
            assert killed.returncode == -signal.SIGKILL, (moment, killed)
            until(lambda: is_running(mounted), f"{moment}: the VM goes on")
            assert not listed(mounted), moment
            assert len(hidden(mounted)) <= 1, f"{moment}: what the one before has left is gone"
        assert hidden(mounted), "of the last one, which had no guard any more"
        assert snapshot(mounted, NAME, "base").returncode == 0
        assert hidden(mounted) == [".base.snapshot"], "leftovers are cleared by the next one"


@pytest.mark.parametrize("moment", ["FileWork.flush:before", "Monitor.execute:stop", "FileWork.clone:before"])
def test_interrupted(mounted: Mounted, moment: str) -> None:
    with started(mounted, command=RUNS):
        command = [sys.executable, "-c", KILLED, moment, "snapshot", *on(mounted), NAME, "base"]
        stopped = run(command, SIGINT="yes")
        assert stopped.returncode == 130 and not stopped.stderr.strip(), stopped
        assert not hidden(mounted)
        until(lambda: is_running(mounted), "the VM goes on")


def test_leftovers_are_cleared_by_the_next_mount(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / f".4194000-1{PARTIAL}00ff", noisy(MIB, 1))
    assert mounted.umount().returncode == 0
    lab.mount()
    until(lambda: not hidden(mounted), "the leftover is gone")


def test_a_vm_that_was_stopped_stays_stopped(mounted: Mounted) -> None:
    with started(mounted):
        assert snapshot(mounted, NAME, "base").returncode == 0
        assert not is_running(mounted) and listed(mounted) == ["base"]


def test_a_qemu_that_was_stopped_by_a_signal_goes_on_when_it_can(
    mounted: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs in the middle: after `stop`. The command gives up; the guard has the VM go on as soon as it answers."""
    with started(mounted, command=RUNS):
        (qemu,) = qemu_of(mounted)
        mount = mounts.find(mounted.path)
        vm = running.find(mount, NAME, None)
        real = Monitor.execute

        def stops(self: Monitor, command: str, arguments: object = None) -> object:
            result = real(self, command, arguments)  # type: ignore[arg-type]
            if command == "stop":
                os.kill(qemu, signal.SIGSTOP)
                patch.setattr(monitor, "ANSWER_S", 1.0)
            return result

        with monkeypatch.context() as patch:
            patch.setattr(Monitor, "execute", stops)
            with pytest.raises(VmError, match=f"{NAME}.*within 1 s.*told to go on"):
                attempt(mount, vm)
        os.kill(qemu, signal.SIGCONT)
        until(lambda: is_running(mounted), "the VM goes on")
        assert not listed(mounted) and not hidden(mounted)


def attempt(mount: mounts.Mount, vm: running.Running) -> None:
    with snapshot_file.making(mount, "") as (path, descriptor):
        take.take(mount, vm, descriptor, path)


@contextlib.contextmanager
def fake(mounted: Mounted, trouble: str, command: str = "") -> Iterator[tuple[Path, Path]]:
    """A VM that is none, the socket of its QMP and the file with the commands that it got."""
    path, socket, told = mounted.path / NAME, mounted.state.parent / "fake-qmp", mounted.state.parent / "told"
    for each in (path, socket, told):
        each.unlink(missing_ok=True)
    put(path, noisy(MIB, 3))
    process = spawn(FAKE, str(path), str(socket), str(told), trouble, command)
    try:
        assert said(process) == "listens"
        yield socket, told
    finally:
        end(process.pid)
        process.wait(60)


TROUBLES = [
    ("old", "", "x-ignore-shared.*4.0"),
    ("elsewhere", "", r"not on the store: ram1 \(1024 MiB\)"),
    ("hang", "greeting", "did not answer greet"),
    ("hang", "query-memdev", "did not answer query-memdev"),
    ("quite old", "", "snapshot-save.*6.0"),
    ("hang", "snapshot-save", "did not answer snapshot-save"),
    ("hang", "cont", "not saved within.*told to go on"),
    ("vanish", "query-version", "closed"),
    ("vanish", "snapshot-save", "closed"),
    ("refuse", "snapshot-save", "refuses snapshot-save: no such thing"),
    ("refuse", "add-fd", "refuses add-fd"),
    ("never", "", "not saved within"),
]


def test_a_qemu_that_will_not(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    hanging, run = "", Monitor._run

    def run_with_patience(self: Monitor, work: Any, timeout_s: float, what: str) -> Any:
        """All but what hangs may take as long as it does on a busy machine."""
        return run(self, work, 0.3 if what == hanging else UNTIL_S, what)

    monkeypatch.setattr(Monitor, "_run", run_with_patience)
    for module, name, seconds in ((device_state, "SAVE_S", 0.3), (guard, "RESCUE_S", 30.0)):
        monkeypatch.setattr(module, name, seconds)
    mount = mounts.find(mounted.path)
    for trouble, command, words in TROUBLES:
        hanging = {"greeting": "greet"}.get(command, command) if trouble == "hang" else ""
        with fake(mounted, trouble, command) as (socket, told):
            with pytest.raises(BlockstoreError, match=words):
                attempt(mount, running.find(mount, NAME, socket))
            if trouble != "vanish" and told.exists() and "stop\n" in told.read_text():
                goes_on(told)
        until(lambda: not hidden(mounted), f"{trouble} {command}: nothing half-made is left")


def test_a_vm_that_stops_by_itself_just_before_is_left_so(mounted: Mounted, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ran when it was looked at; `stop` then finds it stopped by an I/O error, and it is not to run into more."""
    monkeypatch.setattr(device_state, "SAVE_S", 0.3)
    with fake(mounted, "io-error") as (socket, told):
        with pytest.raises(BlockstoreError, match="not saved within"):
            attempt(mounts.find(mounted.path), running.find(mounts.find(mounted.path), NAME, socket))
        until(lambda: not hidden(mounted), "nothing half-made is left")
        assert "stop\n" in told.read_text() and "cont\n" not in told.read_text()


def goes_on(told: Path) -> None:
    until(lambda: "cont\n" in told.read_text().split("stop\n")[1], "the VM is told to go on")


def test_somebody_elses_socket(mounted: Mounted) -> None:
    with fake(mounted, "none") as (socket, _):
        put(mounted.path / "other", noisy(MIB, 4))
        one_line(invoke("snapshot", *on(mounted), "other", "base", "--qmp", str(socket)), 2, "no VM runs on other")
        one_line(invoke("snapshot", *on(mounted), NAME, "base"), 2, NAME, "--qmp")
        one_line(invoke("snapshot", *on(mounted), "other", "base"), 2, "no VM runs")
        one_line(invoke("snapshot", *on(mounted), "nothing", "base"), 2, "nothing", "no file")
        one_line(invoke("snapshot", *on(mounted), NAME, "a b"), 2, "a b")
        one_line(invoke("snapshot", *on(mounted), NAME, "base", "--qmp", "/nowhere"), 1, "/nowhere")


@NO_ROOM
def test_without_room(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="16M")
    with started(mounted, command=RUNS):
        writer = spawn(WRITER_WAITS, str(mounted.path / "new"))
        try:
            until(lambda: "no room" in mounted.log(), "the pool is full")
            one_line(snapshot(mounted, NAME, "base"), 5, "out of room", "pool-limit")
            assert not hidden(mounted)
        finally:
            assert blockstore("set", str(mounted.path), "--pool-limit", "64M").returncode == 0
            end(writer.pid)
        # Not before: a virtual processor that waits for room may hold the lock that QEMU answers under.
        assert is_running(mounted)
    assert not listed(mounted)
