"""`blockstore status`: its columns add up on a real mount, its keys are stable, no client brings its daemon down."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from blockstore.daemon.control import client
from blockstore.errors import MountError
from tests.cli.runner import invoke
from tests.cli.words import CLASSES
from tests.daemon.lab import (
    Lab,
    Mounted,
    append,
    blockstore,
    end,
    mixed_blocks,
    noisy,
    one_line,
    put,
    run,
    spawn,
    until,
)
from tests.vm.kept_pages import kept

pytestmark = pytest.mark.mount

RECORDS = ("shared", "patched", "compressed", "dense", "raw", "references")
HOST = ("pool", "tables", "daemon_memory", "resident")
BESIDES = {
    *("state", "daemon_pid", "supervisor_pid", "restarts", "can_be_replaced"),
    *("refaults", "controller", "controller_pid", "controller_ticks", "mounted_at", "daemon_memory_parts"),
    "processes",
    *("fault_latency", "write_latency", "background", "tier", "tier_latency", "arriving"),
    *(
        "pool_limit",
        "pool_reserve",
        "pool_full",
        "fragmentation",
        "stalled",
        "refused_writes",
        "corrupt_reads",
        "lost_blocks",
    ),
    *("write_back", "unseen"),
}
"""What only the total of `status` has."""

COLUMNS = {
    *("logical", "touched", "touched_blocks", "stored", "footprint"),
    *CLASSES,
    *HOST,
    *(f"{name}_blocks" for name in CLASSES),
    *(f"stored_{name}" for name in RECORDS),
    "stored_paged",
}


def fill(mounted: Mounted) -> None:
    """Files in three domains, with every class of block, some deleted again or overwritten."""
    for number in range(6):
        path = mounted.path / ("one", "two", ".")[number % 3] / f"vm{number}"
        path.parent.mkdir(exist_ok=True)
        blocks = mixed_blocks(number // 2)
        put(path, b"".join(blocks[:96]))
        append(path, b"".join(blocks[96:]))  # patches are against what was there before this write
        os.truncate(path, 1 << 21)
    (mounted.path / "one/vm0").unlink()
    put(mounted.path / "two/vm1", b"".join(mixed_blocks(8)[::-1]))


def test_columns_add_up(mounted: Mounted) -> None:
    fill(mounted)
    (mounted.path / "vm5").read_bytes()
    for evicted in (False, True):
        report = mounted.status()
        volumes, total = report["volumes"], report["total"]
        assert set(report) == {"volumes", "snapshots", "total", "host"}
        assert set(volumes) == {"one/vm3", "two/vm1", "two/vm4", "vm2", "vm5"}
        for figures in (*volumes.values(), total):
            assert set(figures) - BESIDES == COLUMNS | {"saved"}
            assert all(type(figures[key]) is int and figures[key] >= 0 for key in COLUMNS), figures
            assert sum(figures[kind] for kind in CLASSES) == figures["touched"]
            assert sum(figures[f"{kind}_blocks"] for kind in CLASSES) == figures["touched_blocks"]
            assert all(figures[kind] == 4096 * figures[f"{kind}_blocks"] for kind in (*CLASSES, "touched"))
            assert sum(figures[f"stored_{kind}"] for kind in RECORDS) == figures["stored"]
            assert sum(figures[part] for part in HOST) == figures["footprint"]
            assert figures["saved"] == pytest.approx(1 - figures["footprint"] / figures["touched"])
        for column in COLUMNS:
            assert sum(figures[column] for figures in volumes.values()) == total[column], column
        assert all(total[kind] for kind in CLASSES if kind not in ("dense", "paged")), total
        assert total["pool"] >= total["stored"] > 0 and total["daemon_memory"] > 1 << 20
        assert type(total["daemon_pid"]) is int and total["pool_limit"] == 512 << 20
        if evicted:
            assert total["resident"] == 0
        else:
            assert 0 < total["resident"] <= total["logical"]
        mounted.evict()


def test_snapshots_have_a_line_of_their_own(mounted: Mounted) -> None:
    put(mounted.path / "vm1", b"".join(mixed_blocks(1)) * 40)
    mounted.evict()
    before = mounted.status()
    assert "Snapshots" not in blockstore("status", str(mounted.path)).stdout
    for number in range(5):
        run(["cp", "--reflink=auto", str(mounted.path / "vm1"), str(mounted.path / f".s{number}.snapshot")])
    mounted.evict()
    after = mounted.status()
    total, snapshots, host = after["total"], after["snapshots"], after["host"]
    assert set(after["volumes"]) == {"vm1"} and snapshots["count"] == 5
    assert snapshots["names"] == [f".s{number}.snapshot" for number in range(5)]
    assert {key: total[key] for key in CLASSES} == {key: before["total"][key] for key in CLASSES}
    assert abs(total["footprint"] - total["daemon_memory"] - total["pool"] - total["tables"] - total["resident"]) == 0
    assert total["stored"] == before["total"]["stored"] and snapshots["stored"] == 0
    assert {key: host[key] for key in HOST} == {key: total[key] + snapshots[key] for key in HOST}
    text = blockstore("status", str(mounted.path)).stdout
    assert "Snapshots: 5; only they need " in text
    put(mounted.path / "vm1", noisy(1 << 20, 7))
    mounted.evict()
    kept = mounted.status()["snapshots"]
    assert kept["stored"] > 0 and kept["unique"] >= kept["stored"] + kept["tables"]


def test_resident_is_what_was_read(mounted: Mounted) -> None:
    put(mounted.path / "file", noisy(4 << 20, 1))
    put(mounted.path / "other", noisy(1 << 20, 2))
    with kept(mounted.path / "file"):
        assert mounted.status()["volumes"]["file"]["resident"] == 4 << 20
    with kept(mounted.path / "other"):
        mounted.evict("file")
        volumes = mounted.status()["volumes"]
    assert (volumes["file"]["resident"], volumes["other"]["resident"]) == (0, 1 << 20)
    with (mounted.path / "file").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(file.fileno(), 100, 1 << 20)
    assert 4096 <= mounted.status()["volumes"]["file"]["resident"] <= 1 << 20


def test_empty_mount_and_table(mounted: Mounted) -> None:
    report = mounted.status()
    assert report["volumes"] == {} and report["total"]["touched"] == 0 and report["total"]["saved"] == 0
    assert blockstore("status", str(mounted.path)).returncode == 0
    put(mounted.path / "vm1", b"".join(mixed_blocks(1)))
    result = blockstore("status", str(mounted.path))
    assert result.returncode == 0 and not result.stderr
    assert all(word in result.stdout for word in ("vm1", *CLASSES, "stored", "footprint", "resident"))
    assert "\x1b" not in result.stdout


def test_processes_are_named_with_what_they_take(mounted: Mounted) -> None:
    """Those that run: there is no controller before there is a file."""
    total = mounted.total()
    assert set(total["processes"]) == {"daemon", "supervisor"}
    put(mounted.path / "vm1", b"".join(mixed_blocks(1)))
    mounted.controller_ticks()
    total = mounted.total()
    assert list(total["processes"]) == ["daemon", "supervisor", "controller"]
    for name, process in total["processes"].items():
        assert process["pid"] == total[f"{name}_pid"]
        assert process["memory"] == total["daemon_memory_parts"][name] > 1 << 20
    took_s = total["processes"]["daemon"]["processor_s"]
    assert took_s > 0, "its start alone takes a tenth of a second"
    until(lambda: mounted.total()["processes"]["daemon"]["processor_s"] > took_s, "it is counted on while it works")
    result = blockstore("status", str(mounted.path))
    table = result.stdout.partition("Processes of the mount")[2]
    assert result.returncode == 0 and "processor time" in table and "all processes" in table
    for name, process in total["processes"].items():
        assert name in table and str(process["pid"]) in table


def test_deleted_but_open_file_has_a_name_in_the_report(shared: Mounted) -> None:
    put(shared.path / "file", noisy(1 << 20, 1))
    with (shared.path / "file").open("rb") as file:
        number = os.fstat(file.fileno()).st_ino
        (shared.path / "file").unlink()
        assert f"(deleted {number})" in shared.status()["volumes"]
        shared.evict()


@pytest.mark.alone  # a new mount name space keeps all mounts of this machine, and whoever unmounts one is refused
def test_without_a_mount_and_with_several(lab: Lab) -> None:
    if run(["unshare", "-m", "true"]).returncode:
        pytest.skip("no mount namespace can be made here")
    # Other blockstore mounts of this machine are hidden, in a namespace of our own.
    hide = (
        "for path in $(awk '/ - fuse.blockstore / { print $5 }' /proc/self/mountinfo); do"
        ' case "$path" in "$KEEP"/*) ;; *) umount -l "$(printf "$path")" ;; esac; done; exec "$@"'
    )
    command = ["unshare", "-m", "sh", "-c", hide, "sh", sys.executable, "-m", "blockstore", "status"]
    one_line(run(command, KEEP="/nowhere"), 1, "there is no blockstore mount")
    first = lab.mount()
    put(first.path / "file", b"data")
    only = run([*command, "--json"], KEEP=str(lab.path))
    assert only.returncode == 0 and set(json.loads(only.stdout)["volumes"]) == {"file"}
    second = lab.mount(name="second")
    one_line(run(command, KEEP=str(lab.path)), 1, first.path, second.path)
    assert second.status()["volumes"] == {} and set(first.status()["volumes"]) == {"file"}


def test_what_is_no_mount(lab: Lab) -> None:
    for path in (lab.path, lab.path / "missing", Path("/")):
        one_line(invoke("status", path), 1, path)
        one_line(invoke("evict", path), 1, path)


def test_a_full_file_system_under_the_state_is_said_so(lab: Lab) -> None:
    """Another pool limit would not help; and without inodes nothing is well, however much room there is."""
    small = lab.path / "small"
    small.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", "size=40m,nr_inodes=60", "none", str(small)]).returncode == 0
    assert blockstore("mount", str(lab.mountpoint()), "--state", f"{small}/state", "--pool-limit", "1G").returncode == 0
    check = ["status", "--check", str(lab.path / "mnt")]
    for number in range(60):
        with contextlib.suppress(OSError):
            (lab.path / f"mnt/{number}").touch()
    found = blockstore(*check)
    assert found.returncode == 2 and f"{small}/state has no inodes left of 60" in found.stdout, found
    for number in range(40):
        (lab.path / f"mnt/{number}").unlink(missing_ok=True)
    writer = spawn("import os, sys\nopen(sys.argv[1], 'wb').write(os.urandom(64 << 20))", str(lab.path / "mnt/0"))
    try:
        until(lambda: "writes wait" in (small / "state/daemon.log").read_text(), "the writer is held up")
        found = blockstore(*check)
        assert found.returncode == 2 and f"the file system under {small}/state is full (" in found.stdout, found
        assert "of 40.0 MiB free), and writes wait" in found.stdout and "pool limit" not in found.stdout, found
        assert "raise the limit" not in found.stdout and "inodes" not in found.stdout, found
    finally:
        end(writer.pid)
        assert blockstore("umount", "--force", str(lab.path / "mnt")).returncode == 0
        until(lambda: run(["umount", str(small)]).returncode == 0, "nobody has the state open")


def test_dead_daemon(lab: Lab) -> None:
    mounted = lab.mount()
    mounted.kill()
    advice = f"blockstore umount {mounted.path}`"
    one_line(invoke("status", mounted.path), 1, mounted.state, advice)
    checked = invoke("status", "--check", mounted.path)
    assert checked.returncode == 2 and advice in checked.stdout, checked
    one_line(blockstore("mount", str(mounted.path), "--state", str(mounted.state)), 3, advice)
    assert mounted.umount().returncode == 0
    lab.mount(state=mounted.state)


# The control socket


def connect(mounted: Mounted) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    here = os.open(mounted.state, os.O_PATH)
    connection.connect(f"/proc/self/fd/{here}/control")
    os.close(here)
    return connection


def say(mounted: Mounted, data: bytes) -> bytes:
    """Send these bytes and hang up; the answer."""
    with connect(mounted) as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            return b""
        answer = b""
        while True:
            try:
                part = connection.recv(1 << 16)
            except ConnectionResetError:
                return answer
            if not part:
                return answer
            answer += part


def test_nonsense_on_the_control_socket(lab: Lab) -> None:
    mounted = lab.mount()
    nonsense = [b"", b"\n", b"{", b"[]\n", b"null\n", b'{"do": 1}\n', b'{"do": ["status"]}\n', b'{"do": {}}\n', b"1\n"]
    nonsense += [b"[" * 60_000 + b"\n", b'{"do": "' + b"x" * 200_000, b"\xff\xfe\n", b"\0" * 100]
    nonsense += [noisy(1 + 97 * seed, seed) for seed in range(30)]
    for data in nonsense:
        answer = say(mounted, data)
        if answer or len(data) < 60_000:  # of what is too long no more may be taken, and then there is no answer
            assert "error" in json.loads(answer), (data[:80], answer)
    assert mounted.total()["touched"] == 0
    assert "Traceback" not in mounted.log(), mounted.log()[-3000:]


def test_clients_that_never_read_or_never_ask(lab: Lab) -> None:
    mounted = lab.mount()
    for number in range(2000):
        (mounted.path / f"a long name, so that the answer does not fit into the socket's buffer {number}").touch()
    silent = [connect(mounted) for _ in range(6)]
    for _ in range(6):
        greedy = connect(mounted)
        greedy.sendall(b'{"do": "status"}\n')
        silent.append(greedy)
    put(mounted.path / "file", b"data")
    assert len(mounted.status()["volumes"]) == 2001
    for connection in silent:
        connection.close()
    assert len(mounted.status()["volumes"]) == 2001
    assert "Traceback" not in mounted.log(), mounted.log()[-3000:]


def test_a_hundred_clients_at_once(shared: Mounted) -> None:
    put(shared.path / "file", b"".join(mixed_blocks(1)))

    def ask_once(number: int) -> object:
        answer = client.ask(shared.state, {"do": ("status", "hello")[number % 2]}, timeout_s=60)
        return answer["daemon_pid"]

    with ThreadPoolExecutor(100) as pool:
        pids = set(pool.map(ask_once, range(100)))
    assert pids == {shared.total()["daemon_pid"]}
    with pytest.raises(MountError, match="hello, pull, reload, runs, set, status, verify"):
        client.ask(shared.state, {"do": "nonsense"})


def test_others_may_not_ask(lab: Lab) -> None:
    mounted = lab.mount()
    assert mounted.state.stat().st_mode & 0o777 == 0o700
    assert (mounted.state / "control").stat().st_mode & 0o777 == 0o600
    lab.path.chmod(0o755)
    mounted.state.chmod(0o755)
    (mounted.state / "control").chmod(0o666)
    script = (
        "import contextlib, socket, sys\ns = socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])\n"
        "with contextlib.suppress(BrokenPipeError):\n"  # it may be turned away before it asks
        '    s.sendall(b\'{"do": "status"}\\n\')\nprint(s.recv(1000).decode())'
    )
    nobody = [
        *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
        *("--bounding-set=-all,+dac_read_search", "--inh-caps=-all,+dac_read_search"),
        *("--ambient-caps=-all,+dac_read_search", sys.executable, "-c", script, str(mounted.state / "control")),
    ]
    result = run(nobody)
    assert result.returncode == 0 and "only root" in json.loads(result.stdout)["error"], result


def test_output_that_cannot_be_written(shared: Mounted) -> None:
    command = [sys.executable, "-m", "blockstore", "status", str(shared.path), "--json"]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    one_line(subprocess.CompletedProcess(command, result.returncode, "", result.stderr), 1, "No space left")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(shared: Mounted, closed: str) -> None:
    result = run(["sh", "-c", f"{sys.executable} -m blockstore status {shared.path} {closed}"])
    assert result.returncode == 0 and not result.stderr, result
    assert ("total" in result.stdout) == (">&-" not in closed.replace("2>&-", ""))
