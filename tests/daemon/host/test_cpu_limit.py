"""Whether our processor time is limited: found at all levels, in both versions of cgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.daemon.host.cpu_limit import is_limited

V1_LINE = "31 30 0:27 / {top} rw shared:9 - cgroup cgroup rw,cpu,cpuacct"
V2_LINE = "32 30 0:28 / {top} rw shared:9 - cgroup2 cgroup2 rw"


def tree(path: Path, line: str, cgroup: str, name: str, quotas: dict[str, str]) -> Path:
    """A /proc whose process 7 is in /a/b of a hierarchy, and the file `name` of some of its cgroups."""
    top = path / "cgroup"
    (top / "a/b").mkdir(parents=True)
    for below, text in quotas.items():
        (top / below / name).write_text(text)
    proc = path / "proc"
    (proc / "7").mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / "7/cgroup").write_text(f"{cgroup}:/a/b\n")
    (proc / "self/mountinfo").write_text(line.format(top=top) + "\n")
    return proc


@pytest.mark.parametrize(
    ("quotas", "expected"),
    (
        ({}, False),
        ({"": "max 100000\n", "a": "max 100000\n", "a/b": "max 100000\n"}, False),
        ({"a/b": "50000 100000\n"}, True),
        ({"a": "400000 100000\n", "a/b": "max 100000\n"}, True),
        ({"a/b": "\n"}, False),
    ),
)
def test_version_2(tmp_path: Path, quotas: dict[str, str], expected: bool) -> None:
    assert is_limited(7, tree(tmp_path, V2_LINE, "0:", "cpu.max", quotas)) is expected


@pytest.mark.parametrize(
    ("quotas", "expected"),
    (
        ({"": "-1\n", "a": "-1\n", "a/b": "-1\n"}, False),
        ({"a": "150000\n", "a/b": "-1\n"}, True),
        ({"a/b": "0\n"}, False),
    ),
)
def test_version_1(tmp_path: Path, quotas: dict[str, str], expected: bool) -> None:
    assert is_limited(7, tree(tmp_path, V1_LINE, "4:cpu,cpuacct", "cpu.cfs_quota_us", quotas)) is expected


def test_without_proc_there_is_none(tmp_path: Path) -> None:
    assert not is_limited(7, tmp_path)
    assert is_limited() in (False, True), "whatever this machine has"
