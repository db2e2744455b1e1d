"""One QEMU guest whose RAM is a file: start it, talk to its console, stop it.

`Guest.command` drives a small shell on the guest's serial console (`initramfs.CONSOLE_SHELL`). QEMU dies with
the thread that called `start`: the kernel kills it (PR_SET_PDEATHSIG), so start guests in lasting threads.
"""

import base64
import contextlib
import os
import secrets
import shlex
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, NoReturn, Self

from guestlab import assets
from guestlab.console import Console
from guestlab.errors import GuestLabError
from guestlab.initramfs import BEGIN_MARK, END_MARK, READY_MARK
from guestlab.qmp import QmpChannel

Accelerator = Literal["tcg", "kvm"]

#: The console shell reads into a kernel buffer of 4096 bytes that has no flow control.
MAX_COMMAND_BYTES = 3500
#: A multiple of four, so that each piece of base64 decodes on its own.
_UPLOAD_CHARS = 3000
#: QEMU answers on its control socket within a tenth of a second; a machine under load takes longer.
_START_TIMEOUT_S = 60
_TERMINATE_TIMEOUT_S = 5
_KILL_TIMEOUT_S = 30
_CPU = {"tcg": "max,la57=off", "kvm": "host"}


class Guest:
    """A running guest; use it as a context manager, or call `start` and `close`.

    Its memory is `memory_path` (made if missing, left in place afterwards), mapped shared. Methods are
    for one thread. Every failure is a GuestLabError.
    """

    def __init__(
        self,
        name: str,
        memory_bytes: int,
        memory_path: Path,
        *,
        accel: Accelerator = "tcg",
        kernel: Path | None = None,
        initrd: Path | None = None,
        disk: Path | None = None,
        kernel_arguments: str = "",
        balloon: bool = False,
        free_page_reporting: bool = False,
        extra_args: Sequence[str] = (),
        runner: Sequence[str] = (),
    ) -> None:
        """Describe a guest; nothing happens before `start`.

        `kernel` and `initrd` default to the cached assets. `disk` is a raw ext4 image that the guest
        boots from; what it writes goes to a temporary file. `free_page_reporting` implies `balloon`.
        `runner` is a command that gets QEMU's command line and gives the guest its memory (`blockstore run ... --`).
        """
        if memory_bytes <= 0 or memory_bytes % (1 << 20):
            raise GuestLabError(f"Guest memory must be a whole number of MiB, not {memory_bytes} bytes.")
        self.name = name
        self.memory_bytes = memory_bytes
        self.memory_path = memory_path
        self._accel = accel
        self._kernel = kernel
        self._initrd = initrd
        self._disk = disk
        self._kernel_arguments = kernel_arguments
        self._balloon = balloon or free_page_reporting
        self._free_page_reporting = free_page_reporting
        self._extra_args = list(extra_args)
        self._runner = list(runner)
        self._process: subprocess.Popen[bytes] | None = None
        self._console: Console | None = None
        self._qmp: QmpChannel | None = None
        self._stderr: IO[bytes] | None = None
        self._ready = False

    def __enter__(self) -> Self:
        """Start the guest."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the guest."""
        self.close()

    def start(self) -> None:
        """Start QEMU and return once its machine is complete; the guest then boots on its own."""
        if self._process is not None:
            raise GuestLabError(f"Guest {self.name} was started already.")
        ours, theirs = socket.socketpair()
        self._qmp = QmpChannel(ours)
        self._stderr = tempfile.TemporaryFile()
        try:
            self._process = subprocess.Popen(
                self._arguments(theirs.fileno()),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                pass_fds=[theirs.fileno()],
                bufsize=0,
                # Ctrl-C is for us: we then close the guest in order.
                start_new_session=True,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdin.fileno(), False)
            self._console = Console(os.dup(self._process.stdout.fileno()), f"console-{self.name}")
            self._process.stdout.close()
            theirs.close()
            self._qmp.negotiate(_START_TIMEOUT_S)
        except OSError as error:
            self.close()
            raise GuestLabError(f"Cannot start QEMU for guest {self.name}: {error}.") from error
        except GuestLabError as error:
            self._reap(_TERMINATE_TIMEOUT_S)
            message = f"QEMU for guest {self.name} did not start: {self._stderr_tail() or error}"
            self.close()
            raise GuestLabError(message) from error
        except BaseException:
            self.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process id of QEMU."""
        return self._running().pid

    def wait_for(self, pattern: str, timeout_s: float) -> str:
        """Wait until the console shows the regular expression; return the text that matched.

        Looks only at what came after the previous match of `wait_for` or `command`.
        """
        self._running()
        assert self._console is not None
        match = self._console.wait_for(pattern, timeout_s)
        if match is None:
            self._fail(f"did not print {pattern!r} within {timeout_s:g} s")
        return match.group()

    def wait_ready(self, timeout_s: float = 60) -> None:
        """Wait until the guest's console takes commands; immediate from the second call on."""
        if not self._ready:
            self.wait_for(f"{READY_MARK}\r?\n", timeout_s)
            self._ready = True

    def assume_ready(self) -> None:
        """Say that the console shell runs already, as in a guest restored from a snapshot."""
        self._ready = True

    def command(self, text: str, timeout_s: float = 60, *, check: bool = True) -> str:
        """Run one line of shell in the guest and return what it printed, stdout and stderr.

        Each line runs in a subshell in the console shell's folder, with stdin empty. With `check` an exit
        status other than 0 is an error. Waits for the guest to be ready first.
        """
        if "\n" in text or len(text.encode()) > MAX_COMMAND_BYTES:
            raise GuestLabError(f"A guest command is one line of at most {MAX_COMMAND_BYTES} bytes.")
        process = self._running()
        self.wait_ready(timeout_s)
        assert self._console is not None
        assert process.stdin is not None
        tag = secrets.token_hex(6)
        line = f"{tag} {text}\n".encode()
        try:
            written = os.write(process.stdin.fileno(), line)
        except OSError:
            written = 0
        if written != len(line):
            self._fail("does not read its console")
        pattern = rf"{BEGIN_MARK} {tag}\r?\n((?s:.*?))\r?\n{END_MARK} {tag} (\d+)\r?\n"
        match = self._console.wait_for(pattern, timeout_s)
        if match is None:
            self._fail(f"did not finish {_shortened(text)!r} within {timeout_s:g} s")
        output = match.group(1).encode("latin-1").decode(errors="replace").replace("\r\n", "\n")
        status = int(match.group(2))
        if check and status != 0:
            raise GuestLabError(
                f"Guest {self.name}: {_shortened(text)!r} ended with status {status}: {output[-400:].strip()}"
            )
        return output

    def write_file(self, path: str, text: str, timeout_s: float = 60) -> None:
        """Write `text` to the file `path` in the guest, through its console."""
        encoded = base64.b64encode(text.encode()).decode()
        self.command(f": >{shlex.quote(path)}", timeout_s)
        for start in range(0, len(encoded), _UPLOAD_CHARS):
            piece = encoded[start : start + _UPLOAD_CHARS]
            self.command(f"echo {piece} | base64 -d >>{shlex.quote(path)}", timeout_s)

    def qmp(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 60) -> Any:
        """Run one QMP command and return its result."""
        self._running()
        assert self._qmp is not None
        return self._qmp.execute(command, arguments, timeout_s)

    def pause(self) -> None:
        """Stop the virtual CPU; the memory file no longer changes when this returns."""
        self.qmp("stop")

    def resume(self) -> None:
        """Let a paused guest go on."""
        self.qmp("cont")

    def console_tail(self) -> str:
        """Return the last lines of the console, for messages."""
        return self._console.tail() if self._console is not None else ""

    def close(self) -> None:
        """Stop QEMU, kill it if it does not go, and reap it; idempotent. The memory file stays."""
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            # A QEMU that somebody stopped with SIGSTOP sees the SIGTERM only now.
            process.send_signal(signal.SIGCONT)
            if not self._reap(_TERMINATE_TIMEOUT_S):
                process.kill()
                # Only a file system that does not answer can keep a killed process.
                if not self._reap(_KILL_TIMEOUT_S):
                    raise GuestLabError(f"QEMU of guest {self.name}, pid {process.pid}, cannot be killed.")
        if process is not None and process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        if self._console is not None:
            self._console.join(_TERMINATE_TIMEOUT_S)
        if self._qmp is not None:
            self._qmp.close()
        if self._stderr is not None:
            self._stderr.close()

    def _arguments(self, qmp_fd: int) -> list[str]:
        kernel = self._kernel or assets.kernel()
        initrd = self._initrd or assets.busybox_initramfs()
        kernel_line = f"console=ttyS0 quiet loglevel=3 panic=-1 {self._kernel_arguments}"
        memory = f"memory-backend-file,id=mem,size={self.memory_bytes},mem-path={self.memory_path},share=on"
        arguments = ["setpriv", "--pdeathsig", "KILL", *self._runner, "qemu-system-x86_64", "-name", self.name]
        arguments += ["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35"]
        if not self._runner:
            arguments += ["-object", memory, "-m", f"{self.memory_bytes >> 20}M", "-machine", "memory-backend=mem"]
        arguments += ["-accel", self._accel]
        arguments += ["-cpu", _CPU[self._accel], "-smp", "1"]
        arguments += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
        arguments += ["-chardev", f"socket,id=control,fd={qmp_fd}", "-mon", "chardev=control,mode=control"]
        arguments += ["-device", "virtio-rng-pci"]
        if self._balloon:
            reporting = "on" if self._free_page_reporting else "off"
            arguments += ["-device", f"virtio-balloon-pci,id=balloon,free-page-reporting={reporting}"]
        if self._disk is not None:
            arguments += ["-drive", f"if=virtio,format=raw,snapshot=on,file={self._disk}"]
            kernel_line += " guestlab.root=/dev/vda"
        arguments += ["-kernel", str(kernel), "-initrd", str(initrd), "-append", kernel_line]
        return arguments + self._extra_args

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.returncode is not None:
            raise GuestLabError(f"Guest {self.name} is not running.")
        return self._process

    def _reap(self, timeout_s: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _fail(self, what: str) -> NoReturn:
        """Raise what happened, with what the guest and QEMU said last."""
        assert self._console is not None
        if self._console.ended:
            self._reap(1)
            what = f"ended before it could answer (it {what})"
        parts = [f"Guest {self.name} {what}."]
        if errors := self._stderr_tail():
            parts.append(f"QEMU said: {errors}")
        if console := self._console.tail():
            parts.append(f"Its console ends with:\n{console}")
        raise GuestLabError(" ".join(parts))

    def _stderr_tail(self) -> str:
        if self._stderr is None or self._stderr.closed:
            return ""
        size = os.fstat(self._stderr.fileno()).st_size
        tail = os.pread(self._stderr.fileno(), 1000, max(size - 1000, 0))
        return tail.decode(errors="replace").strip()


def _shortened(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
