"""The few lines of QMP that the lab needs, over a connected socket. Events are skipped."""

import json
import socket
import time
from typing import Any

from guestlab.errors import GuestLabError

#: A line of QMP is a reply of some hundred bytes; a peer that sends more without a line end is none.
_MAX_LINE_BYTES = 1 << 20


class QmpChannel:
    """One QMP session. Not thread-safe; owned by the Guest whose QEMU is at the other end."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over `connection`, which `close` closes."""
        self._connection = connection
        self._pending = bytearray()

    def negotiate(self, timeout_s: float) -> None:
        """Leave capability negotiation; QEMU answers once its machine is complete."""
        self.execute("qmp_capabilities", timeout_s=timeout_s)

    def execute(self, command: str, arguments: dict[str, Any] | None = None, timeout_s: float = 60) -> Any:
        """Run one command and return the `return` member of its reply."""
        request: dict[str, Any] = {"execute": command}
        if arguments is not None:
            request["arguments"] = arguments
        deadline = time.monotonic() + timeout_s
        try:
            self._connection.settimeout(timeout_s)
            self._connection.sendall(json.dumps(request).encode() + b"\n")
            while True:
                reply = self._read_message(deadline)
                if "error" in reply:
                    raise GuestLabError(f"QEMU refused {command}: {reply['error'].get('desc', reply)}")
                if "return" in reply:
                    return reply["return"]
        except TimeoutError as error:
            raise GuestLabError(f"QEMU did not answer {command} within {timeout_s:g} s.") from error
        except OSError as error:
            raise GuestLabError(f"QEMU closed its control socket during {command}.") from error

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._connection.close()

    def _read_message(self, deadline: float) -> dict[str, Any]:
        while True:
            line, found, rest = self._pending.partition(b"\n")
            if found:
                self._pending = rest
                message: dict[str, Any] = json.loads(line)
                return message
            if len(self._pending) > _MAX_LINE_BYTES:
                raise GuestLabError("QEMU sent a reply without an end.")
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise TimeoutError
            self._connection.settimeout(remaining_s)
            chunk = self._connection.recv(65536)
            if not chunk:
                raise ConnectionResetError
            self._pending += chunk
