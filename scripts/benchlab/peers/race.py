"""Peers that are up at the same time and measured in turns, so that noise that lasts hits all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

from guestlab.errors import GuestLabError

from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.peers import peers
from benchlab.peers.peers import Peer, Place
from blockstore.errors import BlockstoreError

OURS: Final = (peers.LANE, peers.NO_PATCH)

_ERRORS: Final = (BenchError, GuestLabError, BlockstoreError)


class Race:
    """A peer that fails is left out from then on, with the reason. If it is the store itself, that is an error."""

    def __init__(self, bench: Bench, left_out: set[str]) -> None:
        self.peers: dict[str, Peer] = {}
        self._bench = bench
        self._left_out = left_out
        """Shared by the races of one group: who fell out of one does not start in the next."""

    def turn(self, number: int, act: Callable[[Peer], None]) -> None:
        """Let all peers act one after the other; each `number` begins with another one. Raises BenchError."""
        names = list(self.peers)
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            try:
                act(self.peers[name])
            except _ERRORS as error:
                self.leave_out(name, error)

    def leave_out(self, name: str, error: Exception) -> None:
        """Raises BenchError if `name` is ours."""
        if name in OURS:
            raise BenchError(f"{name}: {error}") from error
        self._bench.leave_out(name, str(error))
        self._left_out.add(name)
        self.peers.pop(name, None)


@contextmanager
def race(bench: Bench, names: Sequence[str], place: Place, left_out: set[str]) -> Iterator[Race]:
    """Open those that can be had; all are undone at the end, whatever happened."""
    with ExitStack() as stack:
        result = Race(bench, left_out)
        for name in names:
            if name in left_out:
                continue
            try:
                result.peers[name] = stack.enter_context(peers.PEERS[name](place))
            except _ERRORS as error:
                result.leave_out(name, error)
        yield result
