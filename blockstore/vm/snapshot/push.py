"""A snapshot goes to a tier that other hosts reach, and comes from there (store/remote/pushed.py has the format)."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from blockstore.daemon.control import client
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import BlockstoreError, BusyError, InputError, MountError
from blockstore.store.remote import pushed
from blockstore.store.remote.pushed import Head, Packer
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.tiers import PieceMissing, Tier, TierAway, away_is_an_error, open_tier
from blockstore.store.tiers.valkey_address import PASSWORD_VARIABLE
from blockstore.vm.deadline import deadline
from blockstore.vm.file_work import append
from blockstore.vm.snapshot.memory_windows import windows
from blockstore.vm.snapshot.snapshot_file import MAXIMUM_DEVICE_BYTES, Snapshot, complete, facts_of

POLL_S: Final = 0.05
"""How often it is asked how far a pull is."""

WAIT_POLL_S: Final = 0.2
"""How often it is asked how many blocks are still to come."""

WRITE_S: Final = 30.0
"""How long writing what stands behind the memory may wait for room in the store."""

Report = Callable[[int, int], None]


class Sent(NamedTuple):
    """What a push has put there: blocks that differ from each other and from zeros, and bytes of all pieces."""

    blocks: int
    size_bytes: int


def open_place(url: str, name: str) -> Tier:
    """Where a snapshot of this name is, or will be. Raises InputError."""
    if url.startswith("file:"):  # which one process at a time may have open
        raise InputError(f"the URL {url} is that of a file; use valkey://HOST:PORT, or `blockstore snapshots export`")
    try:
        return open_tier(url, pushed.id_of(name))
    except InputError as error:
        raise InputError(str(error).replace("--spill", "the URL").replace("the spill URL", "the URL")) from None


@contextlib.contextmanager
def place(url: str, name: str) -> Iterator[Tier]:
    """`open_place` for as long as a command needs it. Raises MountError where the tier is away."""
    tier = open_place(url, name)
    try:
        with away_is_an_error():
            yield tier
    finally:
        tier.close()


def absolute(url: str) -> str:
    """The same URL for a process in another folder: the files that it names with their whole paths."""
    place, mark, options = url.partition("?")
    named = (option.partition("=") for option in options.split("&"))
    return place + mark + "&".join(f"{key}{sign}{sign and os.path.abspath(path)}" for key, sign, path in named)


def _is_there(tier: Tier) -> bool:
    """Is there a snapshot that is whole? Raises TierAway."""
    try:
        tier.read(pushed.HEAD, 0, 1)
    except PieceMissing:
        return False
    return True


def push(snapshot: Snapshot, tier: Tier, name: str, report: Report) -> Sent:
    """Put it there; what was sent. What is begun and not done is taken away again.

    Raises BusyError when there is one of this name, InputError for a place that cannot be used, TierAway."""
    tier.check()
    if _is_there(tier):
        raise BusyError(
            f"{tier.describe()} has a snapshot '{name}' already; push under another name with --as, or delete that one "
            "with --delete when no host waits for its blocks any more"
        )
    for piece in tier.pieces():
        tier.delete(piece)  # of a push that was killed
    try:
        return _push(snapshot, tier, name, report)
    except _Overtaken:
        raise BusyError(
            f"somebody else has pushed or deleted the snapshot '{name}' in {tier.describe()} meanwhile; push again"
        ) from None
    except BaseException:
        with contextlib.suppress(BlockstoreError, TierAway):
            tier.remove()
        raise


class _Overtaken(Exception):
    """Somebody else pushes to the same name, and the pieces there are not ours any more."""


def _push(snapshot: Snapshot, tier: Tier, name: str, report: Report) -> Sent:
    packer, claim, sent_bytes = Packer(snapshot.memory_bytes), os.urandom(16), 0
    tier.put(pushed.CLAIM, claim)

    def put(piece: tuple[int, bytes] | None) -> None:
        nonlocal sent_bytes
        if piece is not None:
            tier.put(*piece)
            sent_bytes += len(piece[1])

    try:
        with snapshot.path.open("rb", buffering=0) as memory:
            for offset, blocks, kept in windows(memory.fileno(), snapshot.memory_bytes, report):
                for number in np.flatnonzero(kept).tolist():
                    put(packer.add(offset // BLOCK_BYTES + number, blocks[number].tobytes()))
    except OSError as error:
        raise MountError(f"{snapshot.path} cannot be read: {error.strerror}") from None
    put(packer.rest())
    index, device = packer.part(packer.index()), packer.part(snapshot.device_state())
    for piece in (*index[1], *device[1]):
        put(piece)
    facts = snapshot.facts._asdict()
    head = Head(name, snapshot.memory_bytes, packer.blocks, index[0], device[0], facts)
    try:
        is_ours = tier.read(pushed.CLAIM, 0, len(claim)) == claim
    except PieceMissing:
        is_ours = False
    if not is_ours:
        raise _Overtaken
    put((pushed.HEAD, pushed.packed_head(head)))
    tier.delete(pushed.CLAIM)
    return Sent(packer.blocks, sent_bytes)


def pull(mount: Mount, descriptor: int, tier: Tier, head: Head, url: str, report: Report) -> tuple[int, int]:
    """Let a new file be this snapshot; how many blocks of it differ, and how many of these the store had already.

    The blocks come later. Raises InputError for one that is not whole, TierAway, OutOfRoom, MountError."""
    facts = facts_of(head.facts)
    if head.device.size_bytes > MAXIMUM_DEVICE_BYTES:
        raise InputError(f"the device state of {head.name} is larger than {MAXIMUM_DEVICE_BYTES} bytes")
    tail = os.memfd_create("blockstore-tail")
    try:
        os.pwrite(tail, pushed.read_part(tier, head, head.device), 0)
        complete(tail, head.memory_bytes, facts)
        # The kernel learns the size afterwards: who read the file before would have zeros in the page cache for good.
        found = _made_due(mount, os.fstat(descriptor).st_ino, head, url, report)
        os.ftruncate(descriptor, head.memory_bytes)
        with deadline(WRITE_S, f"{head.name} could not be pulled"):
            append(tail, descriptor, head.memory_bytes)
    finally:
        os.close(tail)
    return found


def wait(mount: Mount, report: Report) -> None:
    """Until all blocks that are due have come. Raises BlockstoreError when some never will, MountError."""
    most = 0
    while (figures := client.ask(mount.state, {"do": "status"})["arriving"]) is not None:
        due, lost = figures["due_blocks"], figures["lost_blocks"]
        if lost and due <= lost:
            raise BlockstoreError(f"{lost} blocks are not where they were pushed to any more; push and pull again")
        most = max(most, due)
        report(most - due, most)
        time.sleep(WAIT_POLL_S)


def _made_due(mount: Mount, volume: int, head: Head, url: str, report: Report) -> tuple[int, int]:
    request: dict[str, Any] = {"do": "pull", "volume": volume, "name": head.name, "url": absolute(url)}
    client.ask(mount.state, request)
    while True:
        try:
            answer = client.ask(mount.state, {"do": "pull", "volume": volume, "progress": True})
        except BlockstoreError as error:
            if not os.environ.get(PASSWORD_VARIABLE) or "password-file=" in url:
                raise
            raise type(error)(
                f"{error}; the mount asks there too, and has the password only from a file (?password-file=PATH), or "
                f"from {PASSWORD_VARIABLE} when it was made"
            ) from None
        if not answer["running"]:
            return answer["blocks"], answer["here"]
        report(answer["done"], answer["total"])
        time.sleep(POLL_S)
