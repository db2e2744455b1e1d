"""The supervisor: holds the descriptor of the mount, and starts the daemon again when it dies, however it dies.

    blockstore.daemon.supervise.supervisor STATE WATCHDOG_S FOREGROUND REPORT_FD OPTIONS    (started by `command`)

While this process holds /dev/fuse the kernel keeps the mount and parks all requests
(docs/decisions.md, "Who holds the device keeps the mount"). It speaks
systemd's service protocol (notify.py), of which the daemon knows nothing else. It does next to nothing itself, so
that nothing in it can fail, and imports next to nothing, because its memory is on the bill: OPTIONS is passed on to the
daemon as it is, and JSON that the daemon has sent to the report.

What it is at stands in `daemon.supervisor` in the state directory, for the command line. SIGTERM is passed on to the
daemon, which unmounts; SIGUSR1 ends a pause.
"""

from __future__ import annotations

import fcntl
import os
import select
import struct
import sys
import time

from blockstore.daemon.supervise import backoff, lean
from blockstore.daemon.supervise.notify_message import (
    DEVICE_KEY,
    ERROR_KEY,
    FIRST_FD,
    NOTIFY_VARIABLE,
    RELOAD_EXIT_CODE,
    WARNINGS_KEY,
    parse,
)
from blockstore.daemon.supervise.phase_file import PhaseFile
from blockstore.errors import BlockstoreError
from blockstore.printable import in_json, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
    from typing import Any, Final
else:  # the same functions; what is left out makes enums of the numbers, 1.5 MB of this process
    import _signal as signal
    import _socket as socket

START_S: Final = 600.0
"""How long a daemon may take to serve; terabytes of state take minutes."""

OVERSLEPT_S: Final = 1.0
"""A wait that ends so much later than it should was no wait: this process was stopped meanwhile."""

MAXIMUM_MESSAGE_BYTES: Final = 64 << 10
MAXIMUM_KEPT: Final = 4
"""Descriptors that are held for the daemon; it has one."""

LAST_WORDS_BYTES: Final = 4096
"""Of what a dead daemon wrote to stderr, so much at most goes to the log."""

_FAR: Final = 100
"""Descriptors are put beyond this number before they get their places from FIRST_FD on."""

_CREDENTIALS: Final = struct.Struct("3i")


class Supervisor:
    """One mount's. `run` returns the exit code."""

    def __init__(
        self, state: str, options_text: str, report_fd: int, *, watchdog_s: float, is_foreground: bool
    ) -> None:
        self._options_text = options_text
        self._state = state
        self._foreground = is_foreground
        self._watchdog_s = watchdog_s
        self._report_fd = report_fd
        self._kept: dict[str, int] = {}
        self._pid = 0
        self._ready_at = 0.0  # of this daemon; 0 until it serves
        self._beat_at = 0.0
        self._has_overslept = False  # since the last beat
        self._error: dict[str, Any] | None = None
        self._served = False  # did any daemon ever?
        self._wanted_end = False
        self._device = ""  # of the mount that our daemon has made
        self._phase_file: PhaseFile | None = None
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._address = "blockstore-" + os.urandom(16).hex()
        self._notify.bind("\0" + self._address)
        self._notify.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self._wake_fd = self._catch_signals()
        self._woken = False

    def run(self) -> int:
        """Start daemons until one ends the mount."""
        try:
            self._phase_file = PhaseFile(self._state)
        except BlockstoreError as error:
            self._error = {"error": str(error), "code": error.exit_code}
            return self._give_up("")
        try:
            return self._keep_a_daemon()
        finally:
            self._phase_file.close()

    def _keep_a_daemon(self) -> int:
        quick_deaths, last_try = 0, False
        while True:
            died_of = self._have_a_daemon()
            served_s = time.monotonic() - self._ready_at if self._ready_at else 0.0
            if died_of == "exit code 0":
                return 0
            last_try &= not self._ready_at  # one that came to serve may have been told that the mount is in use
            if not self._served or not self._kept:
                return self._give_up(died_of)
            if died_of == f"exit code {RELOAD_EXIT_CODE}":
                quick_deaths = 0
                self.log("INFO", "the daemon is replaced by the code that is installed now, as it was asked to")
                continue
            quick_deaths = backoff.count(quick_deaths, served_s)
            self.log("ERROR", f"the daemon died ({died_of}){self._last_words()}")
            if last_try:
                return self._give_up(died_of)
            reason: str = self._error["error"] if self._error is not None else died_of
            self._wait(backoff.delay_s(quick_deaths), reason)
            if self._mount_has_ended():
                return 0
            last_try = self._wanted_end  # one more, to unmount in order

    def _have_a_daemon(self) -> str:
        """Start one and watch it until it is dead; what it died of. Nothing that happens here may end this process."""
        try:
            self._start_daemon()
            return self._watch_daemon()
        except OSError as error:  # no memory for a process, no descriptor
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
                self._pid = 0
            return f"it could not be started or watched: {error.strerror}"

    def _start_daemon(self) -> None:
        self._ready_at, self._error = 0.0, None
        self._say("starting")
        self._pid = os.fork()
        if not self._pid:
            try:
                self._become_daemon()
            except BaseException as error:
                os.write(2, f"the daemon cannot be started: {error}\n".encode())
            finally:
                os._exit(1)

    def _become_daemon(self) -> None:
        """In the child: never returns."""
        os.setsid()  # Ctrl-C is for the supervisor
        null_fd = os.open(os.devnull, os.O_RDWR)
        os.dup2(null_fd, 0)
        if not self._foreground:
            os.dup2(null_fd, 1)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_NOFOLLOW
            os.dup2(os.open(f"{self._state}/daemon.stderr", flags, 0o600), 2)
        far = [_dup_far(descriptor) for descriptor in self._kept.values()]
        for place, descriptor in enumerate(far, FIRST_FD):
            os.dup2(descriptor, place)
        environment = {
            **os.environ,
            NOTIFY_VARIABLE: "@" + self._address,
            "WATCHDOG_USEC": str(int(self._watchdog_s * 1e6)),
        }
        if far:
            environment["LISTEN_PID"] = str(os.getpid())
            environment["LISTEN_FDS"] = str(len(far))
            environment["LISTEN_FDNAMES"] = ":".join(self._kept)
        os.execve(sys.executable, [sys.executable, "-m", "blockstore.daemon", self._options_text], environment)

    def _watch_daemon(self) -> str:
        """Until it is dead; what it died of."""
        notify_fd, pidfd = self._notify.fileno(), os.pidfd_open(self._pid)
        started_at = time.monotonic()
        killed_for = ""
        try:
            while True:
                left_s, asked_at = None if killed_for else self._left_s(started_at), time.monotonic()
                found, _, _ = select.select([notify_fd, pidfd, self._wake_fd], [], [], left_s)
                if notify_fd in found:
                    self._listen()
                if self._wake_fd in found:
                    self._take_signals()
                    self._pass_on_end()
                if pidfd in found:
                    while select.select([notify_fd], [], [], 0)[0]:  # its last messages
                        self._listen()
                    code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
                    self._pid = 0
                    return killed_for or (f"exit code {code}" if code >= 0 else f"signal {-code}")
                if not found and not killed_for and not self._spares(time.monotonic() - asked_at - (left_s or 0)):
                    killed_for = "no sign of life" if self._ready_at else "its start took too long"
                    os.kill(self._pid, signal.SIGKILL)
        finally:
            os.close(pidfd)

    def _left_s(self, started_at: float) -> float:
        """How long the daemon that was started then may be silent from now on."""
        deadline = self._beat_at + self._watchdog_s if self._ready_at else started_at + START_S
        return max(deadline - time.monotonic(), 0)

    def _spares(self, late_s: float) -> bool:
        """Returns whether a silent daemon gets its time once more, because this process woke up so much later than it
        had asked for: both may have been stopped (SIGSTOP, a frozen cgroup). Once for each silence."""
        if not self._ready_at or late_s < OVERSLEPT_S or self._has_overslept:
            return False
        self._has_overslept = True
        self._beat_at = time.monotonic()
        return True

    def _listen(self) -> None:
        space = socket.CMSG_SPACE(MAXIMUM_KEPT * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        data, attached, _, _ = self._notify.recvmsg(MAXIMUM_MESSAGE_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        sender = 0
        descriptors: list[int] = []
        for _, kind, content in attached:
            if kind == socket.SCM_CREDENTIALS:
                sender = _CREDENTIALS.unpack(content)[0]
            elif kind == socket.SCM_RIGHTS:
                descriptors += struct.unpack(f"{len(content) // 4}i", content)
        # Everybody on this machine can send something here.
        message = parse(data) if sender == self._pid else {}
        if message.get("FDSTORE") == "1" and len(descriptors) == 1:
            self._keep(message.get("FDNAME", "stored"), descriptors.pop())
        for descriptor in descriptors:
            os.close(descriptor)
        if message:
            self._heed(message)

    def _keep(self, name: str, descriptor: int) -> None:
        if name in self._kept:
            os.close(self._kept.pop(name))
        if len(self._kept) < MAXIMUM_KEPT:
            self._kept[name] = descriptor
        else:
            os.close(descriptor)

    def _heed(self, message: dict[str, str]) -> None:
        self._beat_at, self._has_overslept = time.monotonic(), False
        self._device = message.get(DEVICE_KEY, self._device)
        if ERROR_KEY in message:
            self._error = _value_of(message[ERROR_KEY])
        if message.get("READY") == "1":
            self._ready_at = time.monotonic()
            self._served = True
            self._say("serving")
            self._report_ready(message.get(WARNINGS_KEY, "[]"))
            self._pass_on_end()

    def _pass_on_end(self) -> None:
        """A daemon unmounts when it serves and nobody uses the mount; one that has never served just goes."""
        if self._wanted_end and (self._ready_at or not self._served):
            self._wanted_end = False
            os.kill(self._pid, signal.SIGTERM)

    def _wait(self, delay_s: float, reason: str) -> None:
        """Until it is time to start again, or somebody wants it."""
        if not delay_s:
            return
        paused = delay_s >= backoff.PAUSE_S
        self._say("paused" if paused else "waiting", reason)
        if paused:
            self.log("ERROR", f"it dies again and again: waiting {delay_s:.0f} s; `blockstore reload` tries at once")
        deadline = time.monotonic() + delay_s
        self._woken = False
        while not self._woken and not self._wanted_end and (left_s := deadline - time.monotonic()) > 0:
            if select.select([self._wake_fd], [], [], left_s)[0]:
                self._take_signals()

    def _mount_has_ended(self) -> bool:
        """Was it unmounted while nobody served it?"""
        poll = select.poll()
        for descriptor in self._kept.values():
            poll.register(descriptor, select.POLLERR)
        return bool(poll.poll(0))

    def _give_up(self, died_of: str) -> int:
        """Nothing can be started again. The kernel aborts the connection when nobody holds it any more."""
        for descriptor in self._kept.values():
            os.close(descriptor)
        if self._error is None:
            message = f"the daemon died{'' if self._served else ' at its start'} ({died_of}){self._last_words()}"
            self._error = {"error": f"{message}; look at {self._state}/daemon.log", "code": 1}
            if not self._served:
                self.log("CRITICAL", message)
        if not self._served:
            # Nothing is said of the end of a mount: the log may be that of another one, which has this state.
            if self._device:
                command = lean.command("blockstore.daemon.host.unmount", self._device)
                os.spawnve(os.P_WAIT, command[0], command, lean.environment())
        elif not self._wanted_end:
            self.log("CRITICAL", f"{self._error['error']}; the mount has ended, and whoever uses it gets errors")
        self._report(f'{{"error": {in_json(self._error["error"])}, "code": {self._error["code"]}}}')
        if self._foreground:
            sys.stderr.write(f"blockstore: {printable(self._error['error'])}\n")
        code: int = self._error["code"]
        return code

    def _report_ready(self, warnings_json: str) -> None:
        if self._report_fd >= 0:
            self._report(f'{{"ready": {warnings_json}}}')
        elif self._foreground and warnings_json != "[]":
            for warning in _value_of(warnings_json) or []:
                sys.stderr.write(f"blockstore: warning: {printable(warning)}\n")

    def _report(self, message_json: str) -> None:
        """Tells `blockstore mount`, which waits for the first start; once."""
        if self._report_fd < 0:
            return
        try:
            os.write(self._report_fd, message_json.encode() + b"\n")
        except OSError:
            pass  # who waited has gone
        os.close(self._report_fd)
        self._report_fd = -1

    def _say(self, name: str, reason: str = "") -> None:
        if self._phase_file is not None:
            self._phase_file.say(os.getpid(), name, reason)

    def _last_words(self) -> str:
        if self._foreground:
            return ""
        try:
            with open(f"{self._state}/daemon.stderr", "rb") as file:
                text = file.read(LAST_WORDS_BYTES).decode(errors="replace").strip()
        except OSError:
            return ""
        return f"; it said: {' / '.join(text.splitlines())}" if text else ""

    def log(self, level: str, text: str) -> None:
        """A line among the daemon's own. The file is opened for each, because the daemon renames it when it is long."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now)) + f",{int(now % 1 * 1000):03}"
        line = f"{stamp} {level} blockstore.daemon.supervise.supervisor: {printable(text)}\n"
        if self._foreground:
            sys.stderr.write(line)
            return
        try:
            with open(f"{self._state}/daemon.log", "a", encoding="utf-8") as log:
                log.write(line)
        except OSError:
            return

    def _catch_signals(self) -> int:
        wake_fd, signal_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(signal_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, lambda *_: None)
        return wake_fd

    def _take_signals(self) -> None:
        numbers = os.read(self._wake_fd, 4096)
        self._woken |= signal.SIGUSR1 in numbers
        self._wanted_end |= any(number in numbers for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def _dup_far(descriptor: int) -> int:
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FAR)


def _value_of(text: str) -> Any:
    """Returns what this JSON says; None if it is none, or cannot be read any more, because Python has been taken away
    under this process or is just being replaced: the mount must outlive that."""
    try:
        import json  # a MB, for a day on which no daemon starts

        return json.loads(text)
    except (ImportError, OSError, ValueError):
        return None


def command(state: str, options_text: str, report_fd: int, *, watchdog_s: float, is_foreground: bool) -> list[str]:
    """Returns the command of a supervisor's process, to be run in `lean.environment()`. It reports to the pipe
    `report_fd`, -1 is none. The options are its last argument: processes of a state are recognized by them."""
    return lean.command(
        "blockstore.daemon.supervise.supervisor",
        state,
        str(watchdog_s),
        str(int(is_foreground)),
        str(report_fd),
        options_text,
    )


def main(arguments: list[str]) -> int:
    """Is the process that `command` starts; returns its exit code."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("-900")
    except OSError:
        pass  # only with privileges; the daemon says so
    lean.forget()
    state, watchdog_s, is_foreground, report_fd, options_text = arguments
    supervisor = Supervisor(
        state, options_text, int(report_fd), watchdog_s=float(watchdog_s), is_foreground=is_foreground == "1"
    )
    try:
        return supervisor.run()
    except BaseException as error:  # nobody is left to start another daemon: the least is to leave the reason
        supervisor.log("CRITICAL", f"the supervisor ended by an error: {error!r}")
        import traceback  # half a MB, for a day that should not come

        supervisor.log("CRITICAL", f"it came about so:\n{traceback.format_exc()}")
        raise
