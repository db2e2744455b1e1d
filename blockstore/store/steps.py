"""How changes of the store are made: as steps, and what each step says.

A sequence of *steps* is a generator: each `next` does at most about a millisecond of work, so that the owner of the
store can do something more urgent in between. Each step yields one of the outcomes below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import NamedTuple

from blockstore.errors import InternalSignal, OutOfRoom
from blockstore.store.state.geometry import BLOCK_BYTES, BLOCK_SHIFT
from blockstore.store.volume import Volume


class NotHere(InternalSignal):
    """A record is in the tier: have it fetched (fetch.py), and try again."""

    def __init__(self) -> None:
        super().__init__("a record is in the tier; try again when it was fetched")


class Outcome(Enum):
    """How a step ended that needs nothing of the tier."""

    WENT_ON = auto()
    """The step did some of the work, its own or compaction that makes room for it. The next step can follow at once."""
    NO_ROOM = auto()
    """The pool has no room, and compaction can make none. Nothing of the step was done, and the next one tries it
    again: it succeeds when memory was freed or moved to the tier."""


class Blocks(NamedTuple):
    """Blocks of a volume, from `first` up to `end`, that a reader or a step needs, some of which are in the tier.

    A step that yields them has done nothing. The next one tries it again, and succeeds when they were fetched
    (fetch.py).
    """

    volume: Volume
    first: int
    end: int


Yielded = Outcome | Blocks
Steps = Iterator[Yielded]


def blocks_of(volume: Volume, offset: int, length: int) -> Blocks:
    """Returns the blocks of a range of bytes."""
    return Blocks(volume, offset >> BLOCK_SHIFT, -(-(offset + length) // BLOCK_BYTES))


def take_step(steps: Steps) -> Yielded | None:
    """Takes the next step, and returns what its owner has to do before the one after it; None when that was the last.

    WENT_ON: nothing. NO_ROOM: wait for a while, or give up. Blocks: have these fetched. Raises what the step raises.
    """
    return next(steps, None)


def run(steps: Steps, fetch: Callable[[Blocks], None] | None = None) -> None:
    """Takes all the steps now. Raises OutOfRoom when one finds no room; the steps before it stay done.

    `fetch` gets the blocks that a step needs from the tier; without it they are an error, NotHere.
    """
    while (outcome := take_step(steps)) is not None:
        if isinstance(outcome, Blocks):
            if fetch is None:
                raise NotHere
            fetch(outcome)
        elif outcome is Outcome.NO_ROOM:
            raise OutOfRoom(
                "there is no room: the pool is at its limit, or the file system under the state is full; "
                "delete or punch memory, or raise --pool-limit"
            )
