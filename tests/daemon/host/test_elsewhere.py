"""`umount` of a mount that is somewhere else too: refused before anything is taken away, and then possible."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.daemon.lab import Lab, Mounted, daemons_of, mounts_below, noisy, one_line, put, ready, run, until

pytestmark = [pytest.mark.mount, pytest.mark.alone]
"""A new mount name space has a copy of every mount, which other tests want to end."""

FORGET: Final = (
    "awk -v ours=$1/ '/ - fuse.blockstore / && index($5, ours) != 1 { print $5 }' /proc/self/mountinfo "
    "| xargs -r -n 1 umount -l"
)

CONTENT: Final = noisy(1 << 20, 1)


def mount(*arguments: object) -> None:
    done = run(["mount", *map(str, arguments)])
    assert done.returncode == 0, done


def umount(path: Path) -> None:
    done = run(["umount", "--", str(path)])
    assert done.returncode == 0, done


@contextlib.contextmanager
def name_space(
    lab: Lab, propagation: str, script: str = "true", *, of: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process with a mount name space of its own, made of ours or that of another process, in which the script has
    run. It has no other mounts of blockstore, where these can be taken away in it alone."""
    forget = FORGET if propagation in ("private", "slave") else "true"
    entering = ["nsenter", "-t", str(of), "-m"] if of is not None else []
    command = ["sh", "-c", f"{forget} && {script} && echo ready && exec sleep 600", "sh", str(lab.path)]
    process = subprocess.Popen(
        [*entering, "unshare", "-m", "--propagation", propagation, *command],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd="/",
    )
    with ready(process):
        yield process


def refused(mounted: Mounted, *named: object) -> None:
    """And the mount is there as before."""
    before = mounts_below(mounted.path)
    one_line(mounted.umount(), 3, mounted.path, "in use by", "--force", *named)
    assert mounts_below(mounted.path) == before
    put(mounted.path / "vm", CONTENT)
    assert (mounted.path / "vm").read_bytes() == CONTENT


def ends(mounted: Mounted, lab: Lab) -> None:
    done = mounted.umount()
    assert done.returncode == 0 and not done.stderr, done
    assert not mounts_below(mounted.path) and not daemons_of(lab.path)


@pytest.mark.parametrize("what", ["", "vm", "folder"])
def test_a_bind_mount(lab: Lab, what: str) -> None:
    """Of all, of a file, of a folder."""
    mounted = lab.mount()
    put(mounted.path / "vm", CONTENT)
    (mounted.path / "folder").mkdir()
    place = lab.path / "a place"
    if what == "vm":
        place.touch()
    else:
        place.mkdir()
    mount("--bind", mounted.path / what, place)
    refused(mounted, f"the mount at {place}")
    umount(place)
    ends(mounted, lab)


def test_a_private_name_space(lab: Lab) -> None:
    mounted = lab.mount()
    with name_space(lab, "private") as process:
        refused(mounted, f"the mount at {mounted.path} in the mount name space of", f"(process {process.pid})")
    ends(mounted, lab)


def test_another_root_directory(lab: Lab) -> None:
    """As containers have it: under another path, and not to be seen under ours."""
    mounted = lab.mount()
    inner = lab.path / "inner"
    inner.mkdir()
    script = f"mount --bind {mounted.path} {inner} && umount {mounted.path}"
    with name_space(lab, "private", script) as process:
        refused(mounted, f"the mount at {inner} in", f"process {process.pid}")
    ends(mounted, lab)


@pytest.fixture
def shared(lab: Lab) -> Iterator[Path]:
    """A directory on which mounts propagate, as all do under systemd."""
    tree = lab.path / "tree"
    tree.mkdir()
    mount("-t", "tmpfs", "tmpfs", tree)
    mount("--make-shared", tree)
    yield tree


@pytest.mark.parametrize("propagation", ["slave", "shared", "unchanged"])
def test_what_goes_with_it(lab: Lab, shared: Path, propagation: str) -> None:
    mounted = lab.mount(name="tree/mnt", state=lab.path / "state")
    with name_space(lab, propagation):
        ends(mounted, lab)


def test_a_slave_of_a_slave_goes_with_it(lab: Lab, shared: Path) -> None:
    mounted = lab.mount(name="tree/mnt", state=lab.path / "state")
    make_shared = f"mount --make-shared {shared}"
    with name_space(lab, "slave", make_shared) as slave, name_space(lab, "slave", of=slave.pid):
        ends(mounted, lab)


def test_a_slave_that_has_it_at_another_place_too(lab: Lab, shared: Path) -> None:
    mounted = lab.mount(name="tree/mnt", state=lab.path / "state")
    inner = lab.path / "inner"
    inner.mkdir()
    with name_space(lab, "slave", f"mount --bind {mounted.path} {inner}") as process:
        refused(mounted, f"the mount at {inner} in", f"process {process.pid}")
    ends(mounted, lab)


def test_a_private_one_under_a_shared_directory(lab: Lab, shared: Path) -> None:
    mounted = lab.mount(name="tree/mnt", state=lab.path / "state")
    with name_space(lab, "private") as process:
        refused(mounted, f"process {process.pid}")
    ends(mounted, lab)


def test_a_mount_in_it(lab: Lab) -> None:
    mounted = lab.mount()
    (mounted.path / "folder").mkdir()
    mount("-t", "tmpfs", "tmpfs", mounted.path / "folder")
    refused(mounted, f"the mount at {mounted.path / 'folder'}")
    umount(mounted.path / "folder")
    ends(mounted, lab)


def test_an_overlay_over_it(lab: Lab) -> None:
    mounted = lab.mount()
    (mounted.path / "folder").mkdir()
    place = lab.path / "merged"
    place.mkdir()
    done = run(["mount", "-t", "overlay", "-o", f"lowerdir={mounted.path}/folder:{lab.path}", "overlay", str(place)])
    if done.returncode:
        pytest.skip(f"no overlay can be mounted here: {done.stderr}")
    refused(mounted, f"the overlay at {place}")
    umount(place)
    ends(mounted, lab)


def test_force(lab: Lab) -> None:
    """It goes on for the other place, and ends with that."""
    mounted = lab.mount()
    put(mounted.path / "vm", CONTENT)
    place = lab.path / "place"
    place.mkdir()
    mount("--bind", mounted.path, place)
    done = mounted.umount("--force")
    assert done.returncode == 0 and f"the mount at {place}" in done.stderr, done
    assert mounts_below(lab.path) == [place] and (place / "vm").read_bytes() == CONTENT
    umount(place)
    until(lambda: not daemons_of(lab.path), "the daemon ends")


@pytest.mark.logs("stays mounted .* used by the mount at ")
def test_sigterm(lab: Lab) -> None:
    mounted = lab.mount()
    place = lab.path / "place"
    place.mkdir()
    mount("--bind", mounted.path, place)
    os.kill(mounted.supervisor_pid(), signal.SIGTERM)
    until(lambda: f"stays mounted (it would go on there), used by the mount at {place}" in mounted.log(), "it is told")
    put(mounted.path / "vm", CONTENT)
    assert mounts_below(lab.path) == [mounted.path, place]
    umount(place)
    ends(mounted, lab)
