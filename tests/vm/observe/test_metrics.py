"""`mount --metrics`: what a scrape has, of a real mount; and that nothing that happens to the daemon hangs one."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import Any, Final

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from blockstore.daemon.control.bill import PROCESSES
from blockstore.daemon.lane.latency import BOUNDS_US
from tests.cli.runner import invoke
from tests.daemon.lab import (
    Lab,
    Mounted,
    ask,
    blockstore,
    daemons_of,
    drop,
    ended,
    mixed_blocks,
    mounts_below,
    noisy,
    one_line,
    put,
    ready,
    spawn,
    stop,
    until,
)
from tests.daemon.logs import STANDS_STILL

pytestmark = pytest.mark.mount

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

SECONDS: Final = "X-Prometheus-Scrape-Timeout-Seconds"

READER: Final = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(descriptor, 0)
mapping.madvise(mmap.MADV_RANDOM)
print("ready", flush=True)
for line in sys.stdin:
    print(sum(mapping[place] for place in range(0, len(mapping), 4096)), flush=True)
"""
"""Touches every page of a file for each line that it gets."""


def get(port: int, path: str = "/metrics", host: str = "127.0.0.1", **headers: str) -> str:
    request = urllib.request.Request(
        f"http://{host}:{port}{path}", headers={name.replace("_", "-"): value for name, value in headers.items()}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        text: str = answer.read().decode()
        return text


def scrape(port: int, **headers: str) -> Samples:
    """The samples, each of which is there once."""
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in parse(get(port, **headers))
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"blockstore_{name}", frozenset(labels.items())]


def is_up(port: int) -> bool:
    try:
        return value(scrape(port), "up") == 1
    except (OSError, http.client.HTTPException):
        return False


def has_restarted(port: int, times: int) -> bool:
    try:
        samples = scrape(port)
    except (OSError, http.client.HTTPException):
        return False
    return value(samples, "up") == 1 and value(samples, "restarts_total") == times


def mount(lab: Lab, *options: str) -> tuple[Mounted, int]:
    port = lab.port()
    mounted = lab.mount("--metrics", f"127.0.0.1:{port}", *options)
    until(lambda: is_up(port), "the metrics are served")
    return mounted, port


def reader(mounted: Mounted, name: str) -> contextlib.AbstractContextManager[subprocess.Popen[str]]:
    """A process that has the file mapped."""
    return ready(spawn(READER, str(mounted.path / name)))


def test_equals_status(lab: Lab) -> None:
    mounted, port = mount(lab)
    (mounted.path / "blue").mkdir()
    for seed, name in enumerate(("vm1", "blue/vm 2", os.fsdecode(b'q"\\\n-\xff'))):
        put(mounted.path / name, b"".join(mixed_blocks(seed)))
        (mounted.path / name).read_bytes()
    samples, status = scrape(port), mounted.status()
    assert {name: value(samples, f"volume_{name}_bytes", volume="vm1") for name in ("logical", "touched")} == {
        name: status["volumes"]["vm1"][name] for name in ("logical", "touched")
    }
    for name, figures in status["volumes"].items():
        volume = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
        memory = {
            key: value(samples, "volume_memory_bytes", volume=volume, mechanism=key)
            for key in ("zero", "shared", "patched", "compressed", "dense", "raw", "paged")
        }
        assert memory == {key: figures[key] for key in memory} and sum(memory.values()) == figures["touched"]
        for key in ("shared", "patched", "compressed", "dense", "raw", "paged", "references"):
            assert value(samples, "volume_stored_bytes", volume=volume, mechanism=key) == figures[f"stored_{key}"]
        assert value(samples, "volume_resident_bytes", volume=volume) == figures["resident"]
        assert value(samples, "volume_refaults_total", volume=volume) == figures["refaults"]
    total = status["total"]
    for key in ("touched_bytes", "pool_bytes", "pool_limit_bytes", "tables_bytes", "lost_blocks"):
        assert value(samples, key) == total[key.removesuffix("_bytes")]
    assert value(samples, "pool_used_ratio") == pytest.approx(total["pool_full"], abs=0.01)
    assert value(samples, "restarts_total") == value(samples, "stalled_requests") == 0
    assert value(samples, "replaceable") == total["can_be_replaced"] and value(samples, "orphaned") == 0
    assert value(samples, "mounted_timestamp_seconds") == pytest.approx(time.time(), abs=300)
    assert value(samples, "process_memory_bytes", part="controller") > 0
    assert all(value(samples, "process_cpu_seconds_total", part=part) >= 0 for part in PROCESSES)
    assert ("blockstore_fault_duration_seconds_count", frozenset()) in samples


def test_histograms_count_faults_and_writes(lab: Lab) -> None:
    mounted, port = mount(lab)
    pages = 2048
    writes = (b"part of a block", noisy(4096, 2), noisy(4096, 3), noisy(1 << 16, 4))
    put(mounted.path / "vm", noisy(pages * 4096, 1))
    drop(mounted.path / "vm")
    before = scrape(port)
    with reader(mounted, "vm") as process:
        ask(process, "read")
    for number, data in enumerate(writes):
        put(mounted.path / f"written{number}", data)
    after = scrape(port)
    for samples in (before, after):
        for name in ("fault_duration_seconds", "write_duration_seconds"):
            bounds = [*(str(bound / 1e6) for bound in BOUNDS_US), "+Inf"]
            counts = [value(samples, f"{name}_bucket", le=bound) for bound in bounds]
            assert counts == sorted(counts) and counts[-1] == value(samples, f"{name}_count")
            assert bool(counts[-1]) == bool(value(samples, f"{name}_sum"))
    faults, seconds, written = (
        value(after, name) - value(before, name)
        for name in ("fault_duration_seconds_count", "fault_duration_seconds_sum", "write_duration_seconds_count")
    )
    assert pages * 0.5 < faults < pages * 1.5, "one in 17 is timed, and stands for 17"
    assert seconds / faults > 1e-6
    refaults = "volume_refaults_total"
    assert value(after, refaults, volume="vm") - value(before, refaults, volume="vm") >= pages
    assert written == len(writes) and value(before, "write_duration_seconds_count") >= pages * 4096 >> 20


def test_controlled_vm(lab: Lab) -> None:
    mounted, port = mount(lab)
    put(mounted.path / "vm", noisy(16 << 20, 1))
    with reader(mounted, "vm") as process:
        ask(process, "read")
        assert blockstore("attach", str(process.pid), "--resident", "4M").returncode == 0
        until(
            lambda: scrape(port).get(("blockstore_volume_reclaimed_bytes_total", frozenset({("volume", "vm")})), 0) > 0,
            "the controller takes memory back",
        )
        samples = scrape(port)
        assert value(samples, "volume_wanted_bytes", volume="vm") == 4 << 20
        assert value(samples, "volume_refault_cost_seconds", volume="vm") > 0
        (mode,) = (dict(labels)["mode"] for name, labels in samples if name == "blockstore_volume_controller_info")
        assert mode == "fixed"
        assert blockstore("attach", str(process.pid), "--resident", "auto").returncode == 0
        until(
            lambda: ("blockstore_volume_refault_ratio", frozenset({("volume", "vm")})) in scrape(port),
            "the controller tells what the VM waits",
        )
        assert ("blockstore_volume_wanted_bytes", frozenset({("volume", "vm")})) not in scrape(port)


@pytest.mark.logs(r"the controller ended \(exit code -9\); starting another one")
def test_same_port_after_reload_and_kill(lab: Lab) -> None:
    mounted, port = mount(lab)
    put(mounted.path / "vm", noisy(1 << 20, 1))
    for restarts in (1, 3):
        mounted.kill_daemon()  # whose controller answers a moment longer
        until(lambda: has_restarted(port, restarts), "the next daemon's controller serves")  # noqa: B023
        assert blockstore("reload", str(mounted.path)).returncode == 0
        until(lambda: has_restarted(port, restarts + 1), "the new code's controller serves")  # noqa: B023
    controller = mounted.controller_pid()
    os.kill(controller, signal.SIGKILL)
    until(lambda: mounted.total()["controller_pid"] not in (None, controller), "another controller")
    assert value(scrape(port), "up") == 1
    last = mounted.controller_pid()
    assert mounted.umount().returncode == 0 and ended(last)
    with pytest.raises(urllib.error.URLError):
        get(port)


@STANDS_STILL
def test_a_daemon_that_stands_still_is_down(lab: Lab) -> None:
    mounted, port = mount(lab, "--watchdog", "60")
    daemon = mounted.daemon_pid()
    stop(daemon)
    try:
        started = time.monotonic()
        samples = scrape(port, **{SECONDS: "1.5"})
        assert time.monotonic() - started > 0.5
        assert value(samples, "up") == 0 and not any("pool" in name for name, _ in samples)
    finally:
        os.kill(daemon, signal.SIGCONT)
    until(lambda: is_up(port), "it is up again")


def test_paths_and_formats(lab: Lab) -> None:
    mounted, port = mount(lab)
    put(mounted.path / "vm", noisy(1 << 20, 1))
    assert "blockstore_up 1.0" in get(port, "/") and "blockstore_up 1.0" in get(port, "/metrics?x=y")
    for path in ("/x", "/metrics/x", "/../etc/passwd"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            get(port, path)
        assert caught.value.code == 404
    text = get(port, Accept="application/openmetrics-text; version=1.0.0")
    read: Any = parse_openmetrics  # has no types
    assert text.endswith("# EOF\n") and {family.name for family in read(text)} > {"blockstore_build"}


def test_many_and_slow_clients(lab: Lab) -> None:
    """Who says nothing holds a place for seconds only; who finds none is told so at once."""
    mounted, port = mount(lab)
    with contextlib.ExitStack() as idle:

        def takes_all_places() -> bool:
            for _ in range(12):
                idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            return not is_up(port)

        until(takes_all_places, "there is no place left")
        until(lambda: is_up(port), "they have been turned out")
    assert mounted.serves()
    for garbage in (b"\0" * 100_000, b"GET /" + b"x" * 100_000, b"POST / HTTP/1.1\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as connection, contextlib.suppress(OSError):
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1 << 16)
    assert value(scrape(port), "up") == 1


def test_other_addresses(lab: Lab) -> None:
    for option, hosts in (("", ("127.0.0.1", "[::1]")), ("[::1]", ("[::1]",)), ("localhost", ("localhost",))):
        port = lab.port()
        if "[::1]" in hosts and not socket.has_dualstack_ipv6():
            continue
        mounted = lab.mount("--metrics", f"{option}:{port}")
        mounted.controller_pid()
        for host in hosts:
            assert "blockstore_up" in get(port, host=host)
        assert mounted.umount("--discard").returncode == 0


@pytest.mark.parametrize("foreground", [False, True])
def test_port_in_use(lab: Lab, foreground: bool) -> None:
    options = ["--foreground"] if foreground else []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        place, state = lab.mountpoint(), lab.path / "state"
        result = blockstore("mount", str(place), "--state", str(state), "--metrics", address, *options)
    one_line(result, 1, address, "in use")
    assert not mounts_below(lab.path) and not state.exists() and not daemons_of(lab.path)


def test_addresses_that_are_none(lab: Lab) -> None:
    for text, code in (("9180", 2), (":0", 2), ("[::1", 2), ("nowhere.invalid:9180", 1), ("192.0.2.1:9180", 1)):
        place, state = lab.mountpoint(), lab.path / "state"
        one_line(invoke("mount", place, "--state", state, "--metrics", text), code, text)
        assert not mounts_below(lab.path) and not state.exists()


def test_without_metrics_the_library_is_not_loaded() -> None:
    modules = "blockstore.vm.control.controller, blockstore.daemon.supervise.companion"
    program = f"import sys, {modules}; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
