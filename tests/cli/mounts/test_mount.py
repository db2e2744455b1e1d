"""`blockstore mount`: what it refuses, and with which words; nothing is left behind by a mount that failed."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from blockstore.daemon.host import mounts
from blockstore.store.state import superblock
from tests.cli.runner import invoke
from tests.daemon.lab import (
    Lab,
    Mounted,
    blockstore,
    cold,
    daemons_of,
    mounts_below,
    noisy,
    one_line,
    put,
    run,
    sha256,
    until,
)

pytestmark = pytest.mark.mount


def refused(lab: Lab, code: int, *named: object, mountpoint: Path, options: tuple[str, ...] = ()) -> None:
    """The mount fails with one line, and leaves no mount, no process and nothing in the file system."""
    before, mounted = snapshot(lab.path), mounts_below(lab.path)
    result = invoke("mount", mountpoint, *options)
    one_line(result, code, *named)
    assert mounts_below(lab.path) == mounted
    assert snapshot(lab.path) == before


def snapshot(folder: Path) -> dict[str, bytes]:
    """What is in the folder; mounts in it are not entered, nor what a daemon or controller writes by itself."""
    found = {}
    for root, directories, files in os.walk(folder):
        here = Path(root)
        directories[:] = [name for name in directories if here / name not in mounts_below(folder)]
        found[root] = b""
        found.update({str(here / name): (here / name).read_bytes() for name in files if (here / name).is_file()})
        for name in ("names.sqlite-wal", "daemon.history"):
            found.pop(str(here / name), None)
    return found


def mounted_again(mounted: Mounted) -> subprocess.CompletedProcess[str]:
    """With a small limit: the default one makes the pool a file of many GiB, and the tests read all files."""
    return invoke("mount", mounted.path, "--state", mounted.state, "--pool-limit", "16M")


def test_mountpoint_is_missing(lab: Lab) -> None:
    missing = lab.path / "missing"
    refused(lab, 2, missing, mountpoint=missing, options=("--state", str(lab.path / "state")))
    refused(lab, 2, missing, mountpoint=missing / "below", options=("--state", str(lab.path / "state")))


def test_mountpoint_is_no_directory(lab: Lab) -> None:
    (lab.path / "file").touch()
    refused(lab, 2, lab.path / "file", mountpoint=lab.path / "file", options=("--state", str(lab.path / "state")))


def test_mountpoint_is_not_empty(lab: Lab) -> None:
    (lab.mountpoint() / "file").touch()
    refused(lab, 2, lab.path / "mnt", mountpoint=lab.path / "mnt", options=("--state", str(lab.path / "state")))


def test_mountpoint_is_a_dangling_or_circular_link(lab: Lab) -> None:
    (lab.path / "dangling").symlink_to(lab.path / "nowhere")
    (lab.path / "circle").symlink_to(lab.path / "circle")
    for name in ("dangling", "circle"):
        before = snapshot(lab.path)
        result = invoke("mount", lab.path / name, "--state", lab.path / "state")
        one_line(result, 2)
        assert snapshot(lab.path) == before


def test_pool_limit_below_the_minimum(lab: Lab) -> None:
    options = ("--state", str(lab.path / "state"), "--pool-limit")
    for limit in ("7M", "0", "4096", "100P"):
        refused(lab, 2, "--pool-limit", mountpoint=lab.mountpoint(), options=(*options, limit))


def test_a_core_is_no_choice_of_lane_cpu(lab: Lab) -> None:
    refused(lab, 2, "--lane-cpu", "'follow', 'none'", mountpoint=lab.mountpoint(), options=("--lane-cpu", "1"))


ENOUGH_KIB = 1000
"""What the tables of an empty store take, and more."""


def test_text_that_is_no_size(lab: Lab) -> None:
    for text in ("lots", "-5M", "5X", ""):
        result = invoke("mount", lab.mountpoint(), "--state", lab.path / "s", "--pool-limit", text)
        assert result.returncode == 2 and not result.stdout
        last = result.stderr.splitlines()[-1]
        assert (f"'{text}'" if text else "it is empty") in last and "--pool-limit" in last
    assert not mounts_below(lab.path) and not (lab.path / "s").exists()


@pytest.mark.parametrize("size_kib", [4, 40, 100, 300, ENOUGH_KIB])
def test_full_file_system_under_the_state(lab: Lab, size_kib: int) -> None:
    """A tmpfs of any size below what a mount needs: one sentence; with enough it mounts."""
    tiny = lab.path / "tiny"
    tiny.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(tiny)]).returncode == 0
    result = invoke("mount", lab.mountpoint(), "--state", tiny / "state", "--pool-limit", "16M")
    if size_kib == ENOUGH_KIB:
        assert result.returncode == 0, result
        assert "has room for" in result.stderr and blockstore("umount", str(lab.path / "mnt")).returncode == 0
        return
    one_line(result, 5, tiny)
    assert mounts_below(lab.path) == [tiny] and not os.listdir(tiny) and not daemons_of(lab.path)


@pytest.mark.logs(r"the daemon ended by an error(\n.*)*Cannot allocate memory", r"the daemon failed \(OSError\(12")
def test_the_log_that_a_failed_start_names_is_there(lab: Lab) -> None:
    """The state directory is taken back but for that, and the next start uses it."""
    state = lab.path / "state"
    (lab.path / "sitecustomize.py").write_text(
        "import blockstore.store.state.pool as pool\n"
        "def refuse(*arguments): raise OSError(12, 'Cannot allocate memory')\n"
        "pool.Pool.__init__ = refuse\n"
    )
    command = ["mount", str(lab.mountpoint()), "--state", str(state), "--pool-limit", "64M"]
    one_line(blockstore(*command, PYTHONPATH=str(lab.path)), 1, "Cannot allocate memory", state / "daemon.log")
    assert os.listdir(state) == ["daemon.log"] and "Cannot allocate memory" in (state / "daemon.log").read_text()
    lab.mount(state=state).umount("--discard")
    assert not state.exists()


def test_too_few_addresses_for_the_tables_is_one_sentence(lab: Lab) -> None:
    mount = [sys.executable, "-m", "blockstore", "mount", str(lab.mountpoint()), "--state", str(lab.path / "state")]
    failed = run(["sh", "-c", 'ulimit -v 2000000; exec "$@"', "sh", *mount, "--pool-limit", "64M"])
    one_line(failed, 5, "MiB of addresses", "ulimit -v")
    assert not (lab.path / "state").exists(), "it was made for this, and has nothing in it"


@pytest.mark.logs(r"mnt.state has (format version \d+, not|another geometry)", "the superblock of .* is damaged")
def test_state_of_another_version_geometry_or_none(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="16M")
    put(mounted.path / "file", noisy(100_000, 1))
    assert mounted.umount().returncode == 0
    place = mounted.state / superblock.NAME
    good = place.read_bytes()
    for offset, words in ((16, "version"), (20, "geometry"), (0, "damaged")):
        place.write_bytes(good[:offset] + struct.pack("<I", 77) + good[offset + 4 :])
        before = snapshot(lab.path)
        one_line(mounted_again(mounted), 4, mounted.state, words)
        after = snapshot(lab.path)
        assert {path for path in after if after[path] != before.get(path) and "daemon." not in path} == set()
        assert not mounts_below(lab.path)
    place.write_bytes(good)
    assert cold(lab.mount(state=mounted.state).path / "file") == noisy(100_000, 1)


@pytest.mark.logs("the state in .*mnt.state is damaged: ")
def test_state_that_lost_a_file_is_refused_and_kept(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="16M")
    put(mounted.path / "file", noisy(100_000, 1))
    assert mounted.umount().returncode == 0
    kept = (mounted.state / "volume-2").read_bytes()
    for lost in ("names.sqlite", "pool", "domains", "rows-where"):
        saved = (mounted.state / lost).read_bytes()
        for how in ("missing", "empty"):
            (mounted.state / lost).unlink()
            if how == "empty":
                (mounted.state / lost).touch()
            one_line(mounted_again(mounted), 4, mounted.state, "damaged")
            assert not mounts_below(lab.path) and (mounted.state / "volume-2").read_bytes() == kept, (lost, how)
            for suffix in ("", "-wal", "-shm"):
                (mounted.state / (lost + suffix)).unlink(missing_ok=True)
            (mounted.state / lost).write_bytes(saved)
    assert cold(lab.mount(state=mounted.state).path / "file") == noisy(100_000, 1)


def test_state_in_the_mountpoint(lab: Lab) -> None:
    place = lab.mountpoint()
    (lab.path / "link").symlink_to(place)
    for state in (place, place / "inner", lab.path / "link/inner"):
        refused(lab, 2, state, mountpoint=place, options=("--state", str(state)))


def test_foreign_directory_as_state(lab: Lab) -> None:
    foreign = lab.path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("ten years of work")
    refused(lab, 4, foreign, mountpoint=lab.mountpoint(), options=("--state", str(foreign)))


def test_state_that_is_a_file_or_cannot_be_made(lab: Lab) -> None:
    (lab.path / "file").write_text("x")
    for state in (lab.path / "file", lab.path / "file/below"):
        result = invoke("mount", lab.mountpoint(), "--state", state)
        one_line(result, result.returncode, state)
        assert result.returncode in (2, 4) and not mounts_below(lab.path)
    assert (lab.path / "file").read_text() == "x"


def test_second_mount_on_the_same_place(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", b"data")
    mounted.controller_pid()  # its log is a file of the state
    refused(lab, 3, mounted.path, mountpoint=mounted.path, options=("--state", str(lab.path / "other")))
    (lab.path / "link").symlink_to(mounted.path)
    refused(lab, 3, mounted.path, mountpoint=lab.path / "link", options=("--state", str(lab.path / "other")))
    assert (mounted.path / "file").read_bytes() == b"data"


def test_every_command_follows_links_to_the_mount(lab: Lab) -> None:
    """As `mount` does, which shows the resolved path."""
    place = lab.mountpoint()
    (lab.path / "link").symlink_to("mnt")
    (lab.path / "to_link").symlink_to(lab.path / "link")
    (lab.path / "here").symlink_to(".")
    options = ("--state", lab.path / "state", "--pool-limit", "16M")
    assert invoke("mount", lab.path / "to_link", *options).returncode == 0
    assert mounts_below(lab.path) == [place]
    put(place / "vm1", b"data")
    for path in (lab.path / "link", lab.path / "to_link", lab.path / "here/to_link", place):
        assert invoke("status", path).returncode == 0
        assert list(json.loads(invoke("evict", path, "--json").stdout)) == ["vm1"]
    (lab.path / "circle").symlink_to("circle")
    one_line(invoke("status", lab.path / "circle"), 1, lab.path / "circle")
    result = invoke("umount", lab.path / "here/to_link")
    assert result.returncode == 0 and not mounts_below(lab.path), result


def test_second_mount_of_the_same_state(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "file", b"data")
    (lab.path / "link").symlink_to(mounted.state)
    for state in (mounted.state, lab.path / "link"):
        one_line(invoke("mount", lab.mountpoint("second"), "--state", state), 3, state)
        assert mounts_below(lab.path) == [mounted.path]
    assert cold(mounted.path / "file") == b"data"
    assert mounted.total()["touched"] == 4096, "the daemon's socket is still there"


def test_mount_on_what_a_dead_daemon_left(lab: Lab) -> None:
    mounted = lab.mount()
    mounted.kill()
    result = invoke("mount", mounted.path, "--state", mounted.state)
    assert result.returncode in (1, 3)
    one_line(result, result.returncode, mounted.path)


def in_private_namespace(preparation: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `blockstore ARGUMENTS` after some shell in a mount namespace of its own."""
    if run(["unshare", "-m", "true"]).returncode:
        pytest.skip("no mount namespace can be made here")
    return run(["unshare", "-m", "sh", "-ec", f'{preparation}; exec "$@"', "sh", sys.executable, *arguments])


@pytest.mark.alone  # a new mount name space keeps all mounts of this machine, and whoever unmounts one is refused
@pytest.mark.parametrize(
    "preparation",
    ["mount -t tmpfs tmpfs /dev", "mount --bind /dev/null /dev/fuse", "mount --bind /proc/version /dev/fuse"],
    ids=["missing", "null", "a file"],
)
def test_no_device(tmp_path: Path, preparation: str) -> None:
    mountpoint, state = tmp_path / "mnt", tmp_path / "state"
    mountpoint.mkdir()
    result = in_private_namespace(preparation, "-m", "blockstore", "mount", str(mountpoint), "--state", str(state))
    one_line(result, 1)
    assert "fuse" in result.stderr or str(mountpoint) in result.stderr
    assert not state.exists() and not mounts_below(tmp_path) and not daemons_of(tmp_path)


UNPRIVILEGED = [
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all,+dac_read_search"),
    *("--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"),  # to read Python wherever it is
]


def test_no_permission(lab: Lab) -> None:
    """As nobody: the state, the device and the mountpoint are not for everybody."""
    if run([*UNPRIVILEGED, sys.executable, "-c", ""]).returncode:
        pytest.skip("setpriv cannot drop privileges here")
    mount = [*UNPRIVILEGED, sys.executable, "-m", "blockstore", "mount", str(lab.mountpoint())]
    open_place = lab.path / "open"
    open_place.mkdir()
    open_place.chmod(0o777)
    lab.path.chmod(0o755)
    for state in (lab.path / "state", open_place / "state"):
        result = run([*mount, "--state", str(state)])
        assert result.returncode in (1, 2), result
        one_line(result, result.returncode)
        assert not state.exists() and not mounts_below(lab.path) and not daemons_of(lab.path)
    private = lab.path / "private"
    private.mkdir(mode=0o700)
    result = run([*mount, "--state", str(private)])
    assert result.returncode in (1, 2), result
    one_line(result, result.returncode)
    assert not os.listdir(private)


def test_state_of_another_user(lab: Lab) -> None:
    if run([*UNPRIVILEGED, sys.executable, "-c", ""]).returncode:
        pytest.skip("setpriv cannot drop privileges here")
    mounted = lab.mount()
    assert mounted.umount().returncode == 0
    lab.path.chmod(0o755)
    mounted.state.chmod(0o777)
    for each in mounted.state.iterdir():
        each.chmod(0o666)
    before, state = snapshot(lab.path), ("--state", str(mounted.state))
    for command in (["mount", str(mounted.path)], ["verify"], ["umount", "--discard"]):
        result = run([*UNPRIVILEGED, sys.executable, "-m", "blockstore", *command, *state])
        one_line(result, 2, mounted.state, "another user (0)")
        assert snapshot(lab.path) == before and not mounts_below(lab.path), command
    for each in (mounted.state, *mounted.state.iterdir()):
        os.chown(each, 65534, 65534)
    assert invoke("verify", *state).returncode == 0, "root may"


def test_links_in_a_state_are_not_followed(lab: Lab) -> None:
    mounted = lab.mount()
    assert mounted.umount().returncode == 0
    thesis = lab.path / "thesis.txt"
    thesis.write_text("ten years of work")
    for name in ("pool", "daemon.log", "daemon.stderr", "lock", "rows-count"):
        kept = mounted.state / f"daemon.kept.{name}"
        (mounted.state / name).rename(kept)
        (mounted.state / name).symlink_to(thesis)
        refused(lab, 2, name, "symbolic link", mountpoint=mounted.path, options=("--state", str(mounted.state)))
        if name in ("pool", "lock", "rows-count"):
            one_line(invoke("verify", "--repair", "--state", mounted.state), 4, mounted.state / name)
        assert thesis.read_text() == "ten years of work"
        kept.rename(mounted.state / name)
    (mounted.state / "daemon.log.1").symlink_to(thesis)
    assert invoke("umount", "--discard", "--state", mounted.state).returncode == 0
    assert thesis.read_text() == "ten years of work" and not mounted.state.exists()


def test_default_state_outlives_the_mount_only_with_files(lab: Lab) -> None:
    mountpoint = lab.mountpoint()
    assert blockstore("mount", str(mountpoint), "--pool-limit", "16M").returncode == 0
    state = mounts.find(mountpoint).state
    try:
        assert state.stat().st_mode & 0o777 == 0o700 and "blockstore-0" in str(state)
        assert blockstore("umount", str(mountpoint)).returncode == 0 and not state.exists()
        assert blockstore("mount", str(mountpoint), "--pool-limit", "16M").returncode == 0
        put(mountpoint / "file", b"data")
        assert blockstore("umount", str(mountpoint)).returncode == 0 and state.exists()
        assert blockstore("mount", str(mountpoint), "--pool-limit", "16M").returncode == 0
        assert cold(mountpoint / "file") == b"data"
        assert blockstore("umount", str(mountpoint)).returncode == 0 and state.exists()
        assert blockstore("umount", str(mountpoint), "--discard").returncode == 0 and not state.exists()
        one_line(blockstore("umount", str(mountpoint), "--discard"), 2, mountpoint, state, "--state")
        assert blockstore("mount", str(mountpoint), "--pool-limit", "16M").returncode == 0
        (state / "thesis.txt").touch()
        assert blockstore("umount", str(mountpoint)).returncode == 0
        assert os.listdir(state) == ["thesis.txt"], "others' files are left, and it is no error"
        (state / "thesis.txt").unlink()
        state.rmdir()
    finally:
        if mounts_below(lab.path):
            blockstore("umount", str(mountpoint), "--discard")
        assert not state.exists()


def test_strange_paths(lab: Lab) -> None:
    """Spaces, percent signs, newlines and bytes that are not UTF-8, in mountpoint and state; long ones too."""
    for name in ("a b%20c,ro\\040x", os.fsdecode(b"new\nline-\xff"), "s" * 120):
        mounted = lab.mount(name=name)
        put(mounted.path / "file", b"data")
        assert mounted.total()["touched"] == 4096
        assert mounted.umount().returncode == 0 and not mounts_below(lab.path)


def test_relative_paths_and_foreground(lab: Lab) -> None:
    (lab.path / "mnt").mkdir()
    program = [sys.executable, "-m", "blockstore", "mount", "mnt", "--state", "s", "--foreground"]
    process = subprocess.Popen(
        program, cwd=lab.path, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(Path.cwd())}
    )
    try:
        for _ in range(600):
            if mounts_below(lab.path) or process.poll() is not None:
                break
            run(["sleep", "0.05"])
        assert mounts_below(lab.path) == [lab.path / "mnt"]
        put(lab.path / "mnt/file", b"data")
        assert blockstore("status", str(lab.path / "mnt")).returncode == 0
        process.terminate()
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0 and "Traceback" not in errors
        assert not mounts_below(lab.path)
    finally:
        process.kill()
    assert cold(lab.mount(state=lab.path / "s").path / "file") == b"data"


def test_other_users_are_kept_out_unless_allowed(lab: Lab) -> None:
    lab.path.chmod(0o755)
    for name, options, code in (("private", (), 1), ("open", ("--allow-other",), 0)):
        mounted = lab.mount(*options, name=name)
        put(mounted.path / "file", b"data")
        (mounted.path / "file").chmod(0o644)
        (mounted.path / "secret").touch(mode=0o600)
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat"]
        assert run([*nobody, str(mounted.path / "file")]).returncode == code
        assert run([*nobody, str(mounted.path / "secret")]).returncode == 1


def test_a_pool_limit_below_what_is_stored(lab: Lab) -> None:
    """Mounting again with a smaller limit must not lose a block."""
    mounted = lab.mount(pool_limit="64M")
    put(mounted.path / "file", noisy(20 << 20, 1))
    wanted = sha256(mounted.path / "file")
    assert mounted.umount().returncode == 0
    again = lab.mount(state=mounted.state, pool_limit="8M")
    assert sha256(again.path / "file") == wanted
    assert os.statvfs(again.path).f_bavail == 0


@pytest.mark.parametrize(("limit", "files"), [("-Sn 200", 400), ("-n 200", 150)])
@pytest.mark.logs(r"need \d+ descriptors, and a process may have", "no further file can be made: the daemon may have")
def test_more_files_than_descriptors(lab: Lab, limit: str, files: int) -> None:
    """The soft limit is lifted; at the hard one files cannot be made, which statfs(2) foretells, and everything else
    goes on."""
    path, state = lab.mountpoint(), lab.path / "state"
    shell = f'ulimit {limit}; exec "$@"'
    mounting = [sys.executable, "-m", "blockstore", "mount", str(path), "--state", str(state), "--pool-limit", "64M"]
    assert run(["bash", "-c", shell, "bash", *mounting]).returncode == 0
    made, before = 0, os.statvfs(path)
    for number in range(files):
        try:
            (path / f"file{number}").write_bytes(b"content")
            made += 1
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
    assert made == files if "S" in limit else 0 < made < files
    if made < files:
        assert before.f_ffree <= made <= before.f_ffree + 32 and os.statvfs(path).f_ffree == 0
        log = (state / "daemon.log").read_text()
        assert log.count("no further file can be made") == 1 and "may have 200" in log and "Traceback" not in log
        blockstore("status", str(path))  # whatever it says, the mount must not end by it
        for number in range(20):
            (path / f"file{number}").unlink()
    until(lambda: invoke("status", str(path)).returncode == 0, "the daemon answers")
    assert (path / f"file{made - 1}").read_bytes() == b"content"
    if made == files:
        assert blockstore("umount", str(path)).returncode == 0
        one_line(run(["bash", "-c", 'ulimit -n 420; exec "$@"', "bash", *mounting]), 1, "the 400 files", "LimitNOFILE")
        verifying = [sys.executable, "-m", "blockstore", "verify", "--state", str(state)]
        one_line(run(["bash", "-c", 'ulimit -n 420; exec "$@"', "bash", *verifying]), 1, "the 400 files")
        assert run(["bash", "-c", 'ulimit -Sn 200; exec "$@"', "bash", *verifying]).returncode == 0
