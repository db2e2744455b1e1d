"""Connections of the official client, with limits that it does not have: on the time of a whole call, and on how many
calls wait for a server that does not answer. A class made here belongs to one tier.
"""

from __future__ import annotations

import builtins
import math
import threading
import time
from typing import Any, Final

import valkey
from valkey.exceptions import AuthenticationError, ConnectionError, ResponseError, TimeoutError, ValkeyError

from blockstore.store.codec import Buffer
from blockstore.store.tiers import WAIT_S
from blockstore.store.tiers.valkey_address import Address

SOCKET_WAIT_S: Final = WAIT_S / 8
"""For one answer, or one connection. A server that takes longer will not be quick with the next one."""

CALL_S: Final = WAIT_S / 2
"""No step of a call begins later than this; the last one may be to connect: to two addresses, with TLS."""

AWAY_S: Final = 1.0
"""So long a server that did not answer is left alone: one call then tries it, and the others are told at once, so that
they do not take the turns of those that ask other servers."""

Step = tuple[bytes, int]
"""What is sent at once, and how many answers come."""


def command(*words: str | int | Buffer) -> Step:
    parts: list[Buffer] = [b"*%d\r\n" % len(words)]
    for word in words:
        data = str(word).encode() if isinstance(word, str | int) else word
        parts += (b"$%d\r\n" % memoryview(data).nbytes, data, b"\r\n")
    return b"".join(parts), 1


_MULTI: Final = command("MULTI")[0]
_EXEC: Final = command("EXEC")[0]
_GET_RANGE: Final = b"*4\r\n$8\r\nGETRANGE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"


def get_range(key: str, first: int, last: int) -> Step:
    """As `command` would say it, in a third of the time: for the hot path of a fault."""
    name, begin, end = key.encode(), b"%d" % first, b"%d" % last
    return _GET_RANGE % (len(name), name, len(begin), begin, len(end), end), 1


def transaction(*words: str | int | Buffer) -> Step:
    """One command, to be done only if the keys that were watched have not changed. Its answer is a list, or None."""
    return b"".join((_MULTI, command(*words)[0], _EXEC)), 3


class Health:
    """Which servers of a tier do not answer, and how long the call of this thread may go on. Safe in threads."""

    def __init__(self) -> None:
        self._away: Final[dict[tuple[str, int], tuple[float, str]]] = {}  # when to try again, and what is wrong
        self._thread: Final = threading.local()

    def begin_call(self) -> None:
        self._thread.ends = time.monotonic() + CALL_S
        self._thread.tries = None

    def left_s(self) -> float:
        """For the next step of the call. Raises the client's TimeoutError when none is left."""
        left = getattr(self._thread, "ends", math.inf) - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer in {CALL_S:.0f} s")
        return min(left, SOCKET_WAIT_S)

    def before(self, server: tuple[str, int]) -> None:
        """Raises the client's ConnectionError, with the reason of the first, when it is too early to try again."""
        if server not in self._away:
            return
        again, why = self._away.get(server, (0.0, ""))
        now = time.monotonic()
        if now < again and getattr(self._thread, "tries", None) != server:
            raise ConnectionError(why)
        self._thread.tries = server
        self._away[server] = now + AWAY_S, why

    def failed(self, server: tuple[str, int], why: str) -> None:
        self._away[server] = time.monotonic() + AWAY_S, why

    def answered(self, server: tuple[str, int]) -> None:
        if server in self._away:
            self._away.pop(server, None)


def connection_class(health: Health, address: Address) -> Any:
    """With TLS if the address says so; then the certificate must have the name by which the server is called. (The
    cluster client does not hand that option on, hence it stands in the class.)"""
    base: Any = valkey.SSLConnection if address.tls else valkey.Connection
    tls: dict[str, Any] = {}
    if address.tls:
        tls = {"ssl_check_hostname": True, "ssl_ca_certs": address.ca_file}
        tls |= {"ssl_certfile": address.cert_file, "ssl_keyfile": address.key_file}

    class LimitedConnection(base):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options, **tls)
            self._server = self.host, self.port

        def connect(self) -> None:
            health.before(self._server)
            try:
                super().connect()
            except AuthenticationError:
                raise
            except (ConnectionError, TimeoutError) as error:
                health.failed(self._server, str(error))
                raise

        def _connect(self) -> Any:
            self.socket_connect_timeout = health.left_s()
            return super()._connect()

        def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            health.left_s()
            super().send_packed_command(command, check_health)

        def read_response(self, *arguments: Any, **options: Any) -> Any:
            try:
                answer = super().read_response(*arguments, **options)
            except TimeoutError as error:
                health.failed(self._server, str(error))
                raise
            health.answered(self._server)
            return answer

        def exchange(self, step: Step) -> Any:
            """The last answer to this step; raises the first error among them, after all were read. What the client
            does in the two methods above costs more than what is done here."""
            packed, count = step
            health.left_s()
            try:
                self._sock.sendall(packed)
                answers = [self._parser.read_response()]
                while len(answers) < count:
                    answers.append(self._parser.read_response())
            except (OSError, ValkeyError) as error:
                self.disconnect()
                why = f"{self.host}:{self.port}: {error}"
                if isinstance(error, AuthenticationError):
                    raise
                if isinstance(error, TimeoutError | builtins.TimeoutError):
                    health.failed(self._server, why)
                    raise TimeoutError(why) from None
                raise ConnectionError(why) from None
            health.answered(self._server)
            for answer in answers:
                if isinstance(answer, ResponseError):
                    raise answer
            return answers[-1]

    return LimitedConnection


class Pool(valkey.ConnectionPool):
    """Of one server. `ask` is the hot path of a fault: it takes a spare connection without looking whether it is still
    good, which costs the client three system calls, and takes another one when it was not."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._spare: Final[list[Any]] = []  # in use, for the client

    def ask(self, steps: tuple[Step, ...], *, asking: bool = False) -> Any:
        """The last answer to steps that may be sent twice. With `asking` to a node that is about to get the slot."""
        while True:
            spare = True
            try:
                connection = self._spare.pop()
            except IndexError:
                spare = False
                connection = self.get_connection("")
            try:
                connection.connect()
                if asking:
                    connection.exchange(command("ASKING"))
                for step in steps:
                    answer = connection.exchange(step)
            except ResponseError:
                self._spare.append(connection)
                raise
            except BaseException as error:
                connection.disconnect()
                self.release(connection)
                if spare and isinstance(error, ConnectionError):
                    continue
                raise
            self._spare.append(connection)
            return answer
