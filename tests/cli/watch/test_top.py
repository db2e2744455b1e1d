"""`blockstore top` on a real mount and a real terminal: what it shows, its keys, its end; plain lines in a pipe."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect  # type: ignore[import-untyped]
import pyte
import pytest

from blockstore.cli.types.sizes import compact_size
from blockstore.daemon.supervise import phase
from blockstore.store.accounting.classes import CLASSES
from tests.cli.runner import invoke
from tests.daemon.lab import PROJECT, Lab, Mounted, blockstore, mixed_blocks, noisy, one_line, put, run, until
from tests.daemon.logs import STANDS_STILL

pytestmark = pytest.mark.mount

PROMPT = "left with code "


class Terminal:
    """A shell that runs `blockstore top` in a terminal, and then says how the terminal was left."""

    def __init__(self, *arguments: str, size: tuple[int, int] = (80, 24), term: str = "xterm-256color") -> None:
        columns, lines = size
        self._screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self._screen)
        self.raw = b""
        script = f'trap : INT; "$@"; echo "{PROMPT}$?"; stty -a; cat'
        command = ["-c", script, "sh", sys.executable, "-m", "blockstore", "top", "--interval", "0.5", *arguments]
        environment = {**os.environ, "TERM": term, "COLUMNS": "", "LINES": ""}
        # By poll(2): select(2) refuses a descriptor beyond the first thousand, which tests before may have open.
        self.child: Any = pexpect.spawn(
            "sh", command, cwd=PROJECT, env=environment, dimensions=(lines, columns), use_poll=True
        )
        self.modes = termios.tcgetattr(self.child.child_fd)[:4]

    def lines(self) -> list[str]:
        """What the terminal shows now."""
        with contextlib.suppress(pexpect.TIMEOUT, pexpect.EOF):
            while True:
                part = self.child.read_nonblocking(1 << 16, timeout=0.05)
                self.raw += part
                # pyte takes these questions about the keyboard for colours.
                self._stream.feed(part.replace(b"\x1b[>1u", b"").replace(b"\x1b[<u", b""))
        return [line.rstrip() for line in self._screen.display]

    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines())

    def shows(self, *words: str) -> None:
        """It does so soon."""
        try:
            until(lambda: all(word in self.text() for word in words), f"the terminal shows {words}")
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.text()}") from None

    def names(self) -> list[str]:
        """The VMs, from top to bottom."""
        lines = self.lines()
        start = next((number for number, line in enumerate(lines) if line.startswith("total ")), len(lines))
        return [line.split()[0] for line in lines[start + 1 : -1] if line]

    def press(self, keys: str) -> None:
        """Type them."""
        self.child.send(keys)

    def ends(self, code: int) -> str:
        """It does, with this code, and leaves the terminal as it was; what is on the normal screen then."""
        self.shows(f"{PROMPT}{code}", "-isig" if "-isig" in self.text() else "isig")
        assert termios.tcgetattr(self.child.child_fd)[:4] == self.modes
        on, off = self.raw.rfind(b"\x1b[?1049h"), self.raw.rfind(b"\x1b[?1049l")
        assert off > on, "the alternate screen was not left"
        assert self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l"), "the cursor is hidden"
        return self.text()

    def resize(self, columns: int, lines: int) -> None:
        """The window has another size now."""
        self._screen.resize(lines, columns)
        self.child.setwinsize(lines, columns)

    def close(self) -> None:
        """Whatever is left of it goes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.close(force=True)


@contextlib.contextmanager
def terminal(*arguments: object, size: tuple[int, int] = (80, 24), term: str = "xterm-256color") -> Iterator[Terminal]:
    made = Terminal(*map(str, arguments), size=size, term=term)
    try:
        yield made
    finally:
        made.close()


def fill(mounted: Mounted) -> None:
    """Three VMs: `big` is the largest, `warm` is resident, `alone` shares nothing."""
    put(mounted.path / "big", b"".join(mixed_blocks(1)))
    os.truncate(mounted.path / "big", 1 << 30)
    put(mounted.path / "alone", noisy(1 << 20, 1))
    mounted.evict()
    put(mounted.path / "warm", b"".join(mixed_blocks(1)) * 4)


def wait_for_blocks(path: Path, seed: int) -> None:
    """As a VM whose memory is not resident does."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 1 << 20) as mapping:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        mapping.madvise(mmap.MADV_RANDOM)
        for block in random.Random(seed).sample(range(256), 256):
            mapping[block * 4096]


def rows(screen: Terminal) -> dict[str, list[str]]:
    """What a wide screen shows of each VM, up to `saved`, which changes with the daemon's own memory."""
    lines = {line.split()[0]: line.split() for line in screen.lines() if line}
    return {name: lines[name][1:15] for name in screen.names()}


def told(mounted: Mounted) -> dict[str, list[str]]:
    """The same, of `status`."""
    found = {}
    for name, figures in mounted.status()["volumes"].items():
        sizes = [compact_size(figures[key]) for key in ("logical", "touched", "resident")]
        found[name] = [*sizes, "-", "-", "0", *(compact_size(figures[key]) for key in (*CLASSES, "stored"))]
    return found


def test_what_it_shows(shared: Mounted) -> None:
    fill(shared)
    with terminal(shared.path, size=(160, 40)) as screen:
        screen.shows("alone", "big", "warm", "total", "stored", "compressed", "resident, lately", "of 512M", "VMs 3")
        until(lambda: rows(screen) == told(shared), "the figures are those of `status`")
        assert rows(screen)["big"][0] == "1.00G" and rows(screen)["alone"][1] == "1.00M"
        assert all(len(line) <= 160 for line in screen.lines())
        screen.press("q")
        screen.ends(0)


def test_faults_and_their_latency(shared: Mounted) -> None:
    fill(shared)
    with terminal(shared.path) as screen:
        screen.shows("alone", "faults/s 0")

        def has_faults() -> bool:
            wait_for_blocks(shared.path / "alone", 1)
            return any("p50 ≤" in line and "p99 ≤" in line and "faults/s 0 " not in line for line in screen.lines())

        until(has_faults, "faults are shown")
        screen.press("f")
        until(lambda: screen.names()[0] == "alone", "the VM that faults is the first")
        screen.press("\x03")
        screen.ends(0)


def test_sort_keys(shared: Mounted) -> None:
    fill(shared)
    with terminal(shared.path) as screen:
        screen.shows("alone", "warm", "name▲")
        assert screen.names() == ["alone", "big", "warm"]
        for key, first, heading in (
            ("n", "warm", "name▼"),
            ("m", "big", "▼memory"),
            ("m", "alone", "▲memory"),
            ("r", "warm", "▼resident"),
            ("t", "warm", "▼touched"),
            ("s", "big", "▲saved"),
        ):
            screen.press(key if heading != "▲saved" else "ss")
            screen.shows(heading)
            if heading != "▲saved":  # which saves least is not known here
                assert screen.names()[0] == first, (key, screen.text())
        screen.press("x?\x1b[15~")  # keys without a meaning
        screen.press("q")
        screen.ends(0)


def test_small_and_changing_windows(shared: Mounted) -> None:
    fill(shared)
    for number in range(40):
        put(shared.path / f"many{number:02}", b"x")
    with terminal(shared.path) as screen:
        screen.shows("alone", "memory", "many00", "tab more")
        assert "many39" not in screen.text()
        screen.press("\t")
        screen.shows("patched", "compressed", "stored")
        screen.press("\x1b[F")  # end
        screen.shows("many39", "warm")
        for columns, lines in ((20, 5), (160, 50), (41, 12), (80, 24)):
            screen.resize(columns, lines)
            screen.shows("mount")
            if lines > 5:
                until(lambda: bool(screen.names()), "the rows are there")
        screen.shows("compressed", "tab more")
        screen.press("q")
        screen.ends(0)


def test_count(shared: Mounted) -> None:
    put(shared.path / "vm1", b"data")
    with terminal(shared.path, "--count", "3") as screen:
        screen.shows("vm1")
        screen.ends(0)


@STANDS_STILL
def test_the_daemon_restarts(lab: Lab) -> None:
    mounted = lab.mount()
    fill(mounted)
    if phase.load(mounted.state) is None:
        pytest.skip("this kernel ends a mount with its daemon")
    with terminal(mounted.path) as screen:
        screen.shows("alone", "daemon restarts 0")
        os.kill(mounted.daemon_pid(), signal.SIGSTOP)
        screen.shows("waiting for the daemon")
        screen.press("m")
        screen.shows("▼memory")  # it answers to keys
        mounted.kill_daemon()
        screen.shows("daemon restarts 1", "alone")
        until(lambda: "waiting" not in screen.text(), "it waits no more")
        screen.press("q")
        screen.ends(0)


@STANDS_STILL
def test_quits_while_nobody_answers(lab: Lab) -> None:
    mounted = lab.mount()
    fill(mounted)
    pid = mounted.daemon_pid()
    with terminal(mounted.path) as screen:
        screen.shows("alone")
        os.kill(pid, signal.SIGSTOP)
        try:
            screen.shows("waiting for the daemon")
            screen.press("q")
            # The thread that looks may stand in the kernel, where only the daemon can wake it.
            until(lambda: b"\x1b[?1049l" in (screen.text() and screen.raw), "the screen is left")
        finally:
            os.kill(pid, signal.SIGCONT)
        screen.ends(0)


def test_the_mount_goes(lab: Lab) -> None:
    mounted = lab.mount()
    fill(mounted)
    with terminal(mounted.path) as screen:
        screen.shows("alone")
        assert mounted.umount().returncode == 0
        text = screen.ends(1)
        assert "blockstore: the mount at" in " ".join(text.splitlines()) and "Traceback" not in text, text


def test_nobody_will_start_another_daemon(lab: Lab) -> None:
    mounted = lab.mount()
    fill(mounted)
    with terminal(mounted.path) as screen:
        screen.shows("alone")
        mounted.kill()
        text = screen.ends(1)
        said = " ".join(text.replace("\n", "").split())  # the second if it dies while it is asked
        assert "cannot be reached" in said or "gave no answer" in said, text


def test_sigterm_restores_the_terminal(shared: Mounted) -> None:
    put(shared.path / "vm1", b"data")
    with terminal(shared.path) as screen:
        screen.shows("vm1")
        (pid,) = run(["pgrep", "-f", f"blockstore top --interval 0.5 {shared.path}$"]).stdout.split()[-1:]
        os.kill(int(pid), signal.SIGTERM)
        screen.ends(0)


def test_names_that_could_do_harm(shared: Mounted) -> None:
    for name in (b"bad\xff\xfe", b"\x1b[31mred", b"\x1b]0;title\x07", b"new\nline", b"[bold]markup", "漢字".encode()):
        with open(os.fsencode(shared.path) + b"/" + name, "wb") as file:
            file.write(b"data")
    (shared.path / ("long" * 50)).touch()
    with terminal(shared.path) as screen:
        screen.shows("bad\\xff", "[bold]", "longlo…", "new\\x0a", "漢")
        assert b"title\x07" not in screen.raw and b"\x1b[31mred" not in screen.raw
        screen.press("q")
        screen.ends(0)
    plain = blockstore("top", str(shared.path), "--count", "1")
    assert plain.returncode == 0 and plain.stdout.count("\n") == 8
    assert "\x1b" not in plain.stdout and "\x07" not in plain.stdout and not plain.stderr


def test_plain_lines(shared: Mounted) -> None:
    fill(shared)
    result = blockstore("top", str(shared.path), "--count", "2", "--interval", "0.5")
    assert result.returncode == 0 and not result.stderr, result
    lines = [line.split("  ") for line in result.stdout.splitlines()]
    assert [line[1] for line in lines] == ["alone", "big", "warm", "total"] * 2
    alone, total = lines[4], lines[7]
    assert {"memory 1.00M", "touched 1.00M", "raw 1.00M", "zero 0", "faults/s 0", "wanted -", "by -"} <= set(alone)
    assert "restarts 0" in total and any(each.startswith("pool ") and "of 512M" in each for each in total)
    assert {"faults/s -"} <= set(lines[0])


def test_plain_lines_on_a_dumb_terminal_and_with_ctrl_c(shared: Mounted) -> None:
    put(shared.path / "vm1", b"data")
    with terminal(shared.path, term="dumb", size=(200, 40)) as screen:
        until(lambda: screen.text().count("  total  ") >= 2, "it goes on")
        screen.press("\x03")
        screen.shows(f"{PROMPT}0")
        assert b"\x1b" not in screen.raw and "Traceback" not in screen.text()


def test_plain_lines_and_the_mount_goes(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm1", b"data")
    command = [sys.executable, "-m", "blockstore", "top", str(mounted.path), "--interval", "0.5"]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    ) as process:
        assert process.stdout is not None
        assert "vm1" in process.stdout.readline()
        assert mounted.umount().returncode == 0
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, f"blockstore: the mount at {mounted.path} has gone\n")


def test_a_reader_that_goes(shared: Mounted) -> None:
    put(shared.path / "vm1", b"data")
    script = f"{sys.executable} -m blockstore top {shared.path} --interval 0.5 | head -n 1"
    result = run(["sh", "-c", script])
    assert result.stdout.count("\n") == 1 and not result.stderr, result


def test_a_pool_that_fills_is_said_once(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="16M")
    put(mounted.path / "vm1", noisy(14 << 20, 1))
    result = blockstore("top", str(mounted.path), "--count", "2", "--interval", "0.5")
    assert result.returncode == 0 and result.stderr.count("blockstore: warning: the pool is") == 1, result
    with terminal(mounted.path) as screen:
        screen.shows("warning: the pool is")
        screen.press("q")
        screen.ends(0)


def test_bad_input(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        one_line(invoke("top", path), 1, path, "not a blockstore mount")
    for option, value in (
        *(("--interval", value) for value in ("0.4", "-1", "nan", "inf", "x", "1e9")),
        *(("--count", value) for value in ("0", "-1", "1.5", "x")),
    ):
        one_line(invoke("top", tmp_path, option, value), 2, option)
    one_line(invoke("top", tmp_path, "more"), 2, "more")
