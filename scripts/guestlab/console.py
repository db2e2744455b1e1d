"""A bounded, waitable buffer of what a guest printed on its serial console."""

import os
import re
import threading
import time

#: What is kept of the console; the oldest bytes go first.
CONSOLE_LIMIT_BYTES = 1 << 20
#: How much of the console an error message quotes.
TAIL_BYTES = 1500
_READ_BYTES = 65536
_REST_PER_SEARCH = 4


class Console:
    """Reads a descriptor to its end in one thread, so that the guest never blocks on a full pipe.

    Waiting consumes: what a match ends with is not looked at again.
    """

    def __init__(self, read_fd: int, name: str) -> None:
        """Take over `read_fd`; the thread ends when the other side closes it."""
        self._changed = threading.Condition()
        self._data = bytearray()
        self._dropped = 0  # bytes that left the front of _data
        self._cursor = 0  # absolute offset of the first byte not consumed
        self._ended = False
        self._thread = threading.Thread(target=self._drain, args=(read_fd,), name=name, daemon=True)
        self._thread.start()

    def wait_for(self, pattern: str, timeout_s: float) -> re.Match[str] | None:
        """Return the first match after the last one, or None on timeout or when the guest ended."""
        compiled = re.compile(pattern, re.MULTILINE)
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                began_s = time.monotonic()
                start = max(self._cursor - self._dropped, 0)
                # latin-1 keeps one character a byte, so that offsets in text and data agree.
                match = compiled.search(self._data[start:].decode("latin-1"))
                if match is not None:
                    self._cursor = self._dropped + start + match.end()
                    return match
                now_s = time.monotonic()
                if self._ended or now_s >= deadline:
                    return None
                self._changed.wait(deadline - now_s)
                # A serial line wakes us for every few bytes: rest in proportion to what a search costs.
                rest_s = _REST_PER_SEARCH * (now_s - began_s)
                self._changed.wait_for(lambda: self._ended, min(rest_s, max(deadline - now_s, 0)))

    def tail(self) -> str:
        """Return the last bytes of the console, for error messages."""
        with self._changed:
            return self._data[-TAIL_BYTES:].decode(errors="replace").replace("\r", "").strip()

    @property
    def ended(self) -> bool:
        """True once the guest's side of the console is closed."""
        with self._changed:
            return self._ended

    def join(self, timeout_s: float) -> None:
        """Wait for the reading thread; the process at the other end must be gone."""
        self._thread.join(timeout_s)

    def _drain(self, read_fd: int) -> None:
        try:
            while chunk := os.read(read_fd, _READ_BYTES):
                with self._changed:
                    self._data += chunk
                    excess = len(self._data) - CONSOLE_LIMIT_BYTES
                    if excess > 0:
                        del self._data[:excess]
                        self._dropped += excess
                    self._changed.notify_all()
        finally:
            os.close(read_fd)
            with self._changed:
                self._ended = True
                self._changed.notify_all()
