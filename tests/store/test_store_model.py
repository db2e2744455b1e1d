"""The Store beside a trivially right model of it: random operations, and after each one everything is compared."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from suitelab.identity import WORKSPACE_PREFIX

from blockstore.plane.moves.record_batch import RecordBatch
from blockstore.store.checks import verify_pieces
from blockstore.store.checks.verify import Verification, steps
from blockstore.store.checks.verify_pieces import PieceCheck
from blockstore.store.moves.densify import Densify
from blockstore.store.moves.mover import Mover
from blockstore.store.moves.pieces import word_of
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import DirectoryHome, Home, MemoryHome
from blockstore.store.steps import Blocks, Outcome, Steps, blocks_of, run
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway
from blockstore.store.tiers.file import FileTier
from blockstore.store.volume import PAGE_ENTRIES, Volume
from tests.store.columns import column
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.material import densify, fetch_from, near, noise, text
from tests.store.tiers.faulty import FaultyTier

POOL_LIMIT_BYTES = 64 << 20
MAXIMUM_VOLUMES = 4
LARGEST_BLOCK = PAGE_ENTRIES + 64
"""Volumes may cross one border between map pages, and stay small enough to compare after each step."""


@dataclass
class Model:
    """What a volume should be: its bytes, and the blocks that were written and not freed."""

    domain_key: int
    data: bytearray = field(default_factory=bytearray)
    touched: set[int] = field(default_factory=set)

    def write(self, offset: int, data: bytes) -> None:
        if not data:
            return
        end = offset + len(data)
        self.data.extend(bytes(max(end - len(self.data), 0)))
        self.data[offset:end] = data
        self.touched.update(range(offset // BLOCK_BYTES, -(-end // BLOCK_BYTES)))

    def discard(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.data))
        if offset >= end:
            return
        self.data[offset:end] = bytes(end - offset)
        first = -(-offset // BLOCK_BYTES)
        last = -(-end // BLOCK_BYTES) if end == len(self.data) else end // BLOCK_BYTES
        self.touched.difference_update(range(first, last))

    def resize(self, size_bytes: int) -> None:
        if size_bytes < len(self.data):
            self.discard(size_bytes, len(self.data) - size_bytes)
            del self.data[size_bytes:]
        self.data.extend(bytes(size_bytes - len(self.data)))

    def clone(self, source: Model, source_offset: int, offset: int, length: int) -> None:
        """Whole blocks on both sides take over what they are, holes too; other parts are written as bytes."""
        end, taken = offset + length, 0
        data = bytes(source.data[source_offset : source_offset + length])
        if not source_offset % BLOCK_BYTES and not offset % BLOCK_BYTES:
            whole = source_offset + length == len(source.data) and end >= len(self.data)
            blocks = -(-length // BLOCK_BYTES) if whole else length // BLOCK_BYTES
            taken = min(blocks * BLOCK_BYTES, length)
            touched = {block + source_offset // BLOCK_BYTES for block in range(blocks)} & source.touched
            self.data.extend(bytes(max(offset + taken - len(self.data), 0)))
            self.data[offset : offset + taken] = data[:taken]
            self.touched.difference_update(range(offset // BLOCK_BYTES, offset // BLOCK_BYTES + blocks))
            self.touched.update(block + (offset - source_offset) // BLOCK_BYTES for block in touched)
        self.write(offset + taken, data[taken:])

    def seek(self, offset: int, *, data: bool) -> int:
        for block in range(offset // BLOCK_BYTES, -(-len(self.data) // BLOCK_BYTES)):
            if (block in self.touched) == data:
                return max(block * BLOCK_BYTES, offset)
        return len(self.data)


@dataclass(frozen=True)
class Block:
    """A block's content in few words, so that a failing example can be read."""

    kind: Literal["zeros", "noise", "text", "letter"]
    seed: int = 0
    changes: int = 0

    def content(self) -> bytes:
        if self.kind == "letter":
            block = bytes([self.seed]) * BLOCK_BYTES
        elif self.kind == "zeros":
            return bytes(BLOCK_BYTES)
        else:
            block = (noise if self.kind == "noise" else text)(self.seed)
        return near(block, self.changes, self.changes) if self.changes else block


@dataclass(frozen=True)
class Data:
    """What is written: the blocks, all of them so many times over, less some bytes at the end."""

    blocks: list[Block]
    times: int
    cut: int

    def content(self) -> bytes:
        return (b"".join(block.content() for block in self.blocks) * self.times)[: -self.cut or None]


BLOCKS = st.one_of(
    st.just(Block("zeros")),
    st.builds(
        Block,
        st.sampled_from(("noise", "text", "letter")),
        st.integers(0, 5),
        st.one_of(st.just(0), st.integers(0, 12)),
    ),
    st.builds(Block, st.just("text"), st.integers(0, 1), st.integers(0, 12)),
    st.builds(Block, st.just("noise"), st.integers(100, 9999)),
)
DATA = st.builds(
    Data,
    st.lists(BLOCKS, min_size=1, max_size=6),
    st.sampled_from((1, 1, 1, 2, 9)),
    st.sampled_from((0, 0, 0, 0, 1, 100, 2048, 4000)),
)
OFFSETS = st.builds(
    lambda block, skip: block * BLOCK_BYTES + skip,
    st.one_of(st.integers(0, 8), st.sampled_from((0, 33, PAGE_ENTRIES - 2, PAGE_ENTRIES, PAGE_ENTRIES + 3))),
    st.sampled_from((0, 0, 0, 0, 1, 100, 2048, 4095)),
)
LENGTHS = st.one_of(
    st.integers(0, 3 * BLOCK_BYTES),
    st.integers(0, 40).map(lambda blocks: blocks * BLOCK_BYTES),
    st.just(LARGEST_BLOCK * BLOCK_BYTES),
)
WHICH = st.integers(0, MAXIMUM_VOLUMES - 1)


class StoreMachine(RuleBasedStateMachine):
    """A store in memory. Volumes are known by their number in both worlds."""

    def __init__(self) -> None:
        super().__init__()
        self.models: dict[int, Model] = {}
        self.numbers = iter(range(1, 1000))
        self.now_s = 0.0
        self.held: Densify | None = None
        self.store = Store(self.home(), POOL_LIMIT_BYTES)

    def home(self) -> Home:
        return MemoryHome()

    def run(self, steps: Steps) -> None:
        run(steps)

    def read_now(self, volume: Volume, offset: int, length: int) -> bytes:
        return self.store.read(volume, offset, length)

    def pick(self, which: int) -> tuple[Volume, Model]:
        number = sorted(self.models)[which % len(self.models)]
        return self.store.volumes[number], self.models[number]

    @initialize()
    def start_with_one_volume(self) -> None:
        self.create(1)

    @precondition(lambda self: len(self.models) < MAXIMUM_VOLUMES)
    @rule(domain_key=st.sampled_from((1, 1, 2)))
    def create(self, domain_key: int) -> None:
        number = next(self.numbers)
        self.store.create_volume(number, domain_key)
        self.models[number] = Model(domain_key)

    @precondition(lambda self: len(self.models) > 1)
    @rule(which=WHICH)
    def delete(self, which: int) -> None:
        volume, _ = self.pick(which)
        self.run(self.store.delete_steps(volume))
        del self.models[volume.number]

    @rule(which=WHICH, offset=OFFSETS, data=DATA)
    def write(self, which: int, offset: int, data: Data) -> None:
        volume, model = self.pick(which)
        self.run(self.store.write_steps(volume, offset, data.content()))
        model.write(offset, data.content())

    @rule(which=WHICH, offset=OFFSETS, seed=st.integers(0, 3), blocks=st.integers(200, 400))
    def write_much(self, which: int, offset: int, seed: int, blocks: int) -> None:
        """More than a segment holds, so that there are segments to be emptied, compacted and given back."""
        volume, model = self.pick(which)
        data = b"".join(noise(seed * 10_000 + block) for block in range(blocks))
        self.run(self.store.write_steps(volume, offset, data))
        model.write(offset, data)

    @rule(places=st.lists(st.tuples(WHICH, st.integers(0, 300), st.integers(1, 3)), min_size=1, max_size=12), data=DATA)
    def write_here_and_there(self, places: list[tuple[int, int, int]], data: Data) -> None:
        """Whole blocks, as dirty pages lie; some places overlap."""
        content = data.content().ljust(BLOCK_BYTES, b"\1")
        for number, (which, block, blocks) in enumerate(places):
            volume, model = self.pick(which)
            part = (content[number:] + content)[:BLOCK_BYTES] * blocks
            self.run(self.store.write_steps(volume, block * BLOCK_BYTES, part))
            model.write(block * BLOCK_BYTES, part)

    @rule(which=WHICH, every=st.integers(2, 3))
    def discard_here_and_there(self, which: int, every: int) -> None:
        volume, model = self.pick(which)
        for block in range(0, volume.blocks, every):
            self.run(self.store.discard_steps(volume, block * BLOCK_BYTES, BLOCK_BYTES))
            model.discard(block * BLOCK_BYTES, BLOCK_BYTES)

    @rule(which=WHICH, other=WHICH, offset=OFFSETS, other_offset=OFFSETS, data=DATA, other_data=DATA)
    def write_two_in_turns(
        self, which: int, other: int, offset: int, other_offset: int, data: Data, other_data: Data
    ) -> None:
        first, first_model = self.pick(which)
        second, second_model = self.pick(other)
        if first is not second:
            self.in_turns(
                self.store.write_steps(first, offset, data.content()),
                self.store.write_steps(second, other_offset, other_data.content()),
            )
            first_model.write(offset, data.content())
            second_model.write(other_offset, other_data.content())

    @rule(which=WHICH, other=WHICH, offset=OFFSETS, data=DATA, start=OFFSETS, length=LENGTHS)
    def write_while_discarding(self, which: int, other: int, offset: int, data: Data, start: int, length: int) -> None:
        first, first_model = self.pick(which)
        second, second_model = self.pick(other)
        if first is not second:
            self.in_turns(
                self.store.write_steps(first, offset, data.content()), self.store.discard_steps(second, start, length)
            )
            first_model.write(offset, data.content())
            second_model.discard(start, length)

    @rule(which=WHICH, offset=OFFSETS, length=LENGTHS)
    def discard(self, which: int, offset: int, length: int) -> None:
        volume, model = self.pick(which)
        self.run(self.store.discard_steps(volume, offset, length))
        model.discard(offset, length)

    @rule(which=WHICH, size_bytes=OFFSETS)
    def resize(self, which: int, size_bytes: int) -> None:
        volume, model = self.pick(which)
        self.run(self.store.resize_steps(volume, size_bytes))
        model.resize(size_bytes)

    @rule(which=WHICH, other=WHICH, source_offset=OFFSETS, offset=OFFSETS, length=LENGTHS, whole=st.booleans())
    def clone(self, which: int, other: int, source_offset: int, offset: int, length: int, whole: bool) -> None:
        source, source_model = self.pick(which)
        target, target_model = self.pick(other)
        if whole:
            source_offset, offset, length = 0, 0, source.size_bytes
        length = min(length, source.size_bytes - source_offset)
        overlaps = source is target and abs(source_offset - offset) < length
        if source.domain is not target.domain or length <= 0 or overlaps:
            return
        if offset + length > LARGEST_BLOCK * BLOCK_BYTES:
            return
        self.run(self.store.clone_steps(source, source_offset, target, offset, length))
        target_model.clone(source_model, source_offset, offset, length)

    @rule()
    def compact_a_little(self) -> None:
        self.store.upkeep.step()

    @rule()
    def compact(self) -> None:
        while self.store.upkeep.step():
            pass

    @rule()
    def densify(self) -> None:
        densify(self.store)

    @rule(after_s=st.sampled_from((0.0, 0.0, 5.0)), batches=st.integers(1, 20))
    def densify_some(self, after_s: float, batches: int) -> None:
        """Of what is cold, or the rest of the pass that was begun last."""
        self.now_s += 3.0
        if self.store.densify.begin(self.now_s, after_s):
            for _ in range(batches):
                self.store.densify.step()

    @precondition(lambda self: self.held is None)
    @rule(batches=st.integers(1, 10))
    def densify_half(self, batches: int) -> None:
        """Pick records, and let all kinds of things happen to them before they are replaced."""
        store = self.store
        self.held = Densify(
            store.pool, store.domains, store.dictionaries, store.similarity, store.tables, store._commit
        )
        self.held.begin_all()
        while batches and self.held.pick():
            batches -= 1
        self.held.encode()

    @precondition(lambda self: self.held is not None)
    @rule()
    def densify_other_half(self) -> None:
        assert self.held is not None and self.held.replace()
        self.held = None

    @rule(which=WHICH, offset=OFFSETS, length=LENGTHS)
    def read(self, which: int, offset: int, length: int) -> None:
        volume, model = self.pick(which)
        assert self.read_now(volume, offset, length) == model.data[offset : offset + length]

    @rule(which=WHICH, offset=OFFSETS)
    def seek(self, which: int, offset: int) -> None:
        volume, model = self.pick(which)
        if offset < len(model.data):
            for data in (True, False):
                assert volume.seek(offset, data=data) == model.seek(offset, data=data)

    @invariant()
    def tables_agree(self) -> None:
        check_store(self.store)
        self.check_sharing()

    def check_sharing(self) -> None:
        check_nothing_twice(self.store)

    @invariant()
    def volumes_are_as_modelled(self) -> None:
        assert self.store.volumes.keys() == self.models.keys()
        for number, model in self.models.items():
            volume = self.store.volumes[number]
            assert volume.domain.key == model.domain_key
            assert volume.size_bytes == len(model.data)
            assert self.read_now(volume, 0, volume.size_bytes) == model.data
            assert set(touched(self.store, volume)) == model.touched
            assert volume.touched_blocks == len(model.touched)

    def in_turns(self, first: Steps, second: Steps) -> None:
        for outcomes in zip_longest(first, second, fillvalue=Outcome.WENT_ON):
            assert outcomes == (Outcome.WENT_ON, Outcome.WENT_ON)

    def teardown(self) -> None:
        check_store(self.store, decode=True)
        for number in list(self.models):
            self.run(self.store.delete_steps(self.store.volumes[number]))
        check_store(self.store)
        assert self.store.rows.live == 0 and not any(self.store.pool.segments.live_bytes)
        self.store.close()


class DirectoryMachine(StoreMachine):
    """The same on a state directory, which is closed and opened again now and then."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix=WORKSPACE_PREFIX, dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        super().__init__()

    def home(self) -> Home:
        return DirectoryHome(Path(self.folder) / "state")

    @rule()
    def reopen(self) -> None:
        store = self.store
        before = (
            {domain.key: domain.seed for domain in store.domains._by_key.values()},
            column(store.rows.where)[column(store.rows.where) != 0].tolist(),
            {number: volume.mtime_ns for number, volume in store.volumes.items()},
        )
        store.close()
        self.store = store = Store(self.home(), POOL_LIMIT_BYTES)
        self.held = None
        assert before == (
            {domain.key: domain.seed for domain in store.domains._by_key.values()},
            column(store.rows.where)[column(store.rows.where) != 0].tolist(),
            {number: volume.mtime_ns for number, volume in store.volumes.items()},
        )

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            shutil.rmtree(self.folder)


class PagingMachine(DirectoryMachine):
    """The same beside a tier that fails now and then, and a pager that moves records in whole and in half moves."""

    def __init__(self) -> None:
        super().__init__()
        self.tier = FaultyTier(FileTier(f"{self.folder}/spill", self.store.id))
        self.tier.check()
        self.half: RecordBatch | None = None

    @property
    def mover(self) -> Mover:
        return Mover(self.store.paging, self.store.pool, self.tier, nullcontext())

    def run(self, steps: Steps) -> None:
        run(steps, fetch_from(self.store, self.tier))

    def read_now(self, volume: Volume, offset: int, length: int) -> bytes:
        fetch_from(self.store, self.tier)(blocks_of(volume, offset, length))
        return self.store.read(volume, offset, length)

    def in_turns(self, first: Steps, second: Steps) -> None:
        for outcomes in zip_longest(first, second, fillvalue=Outcome.WENT_ON):
            for outcome in outcomes:
                assert outcome is not Outcome.NO_ROOM
                if isinstance(outcome, Blocks):
                    fetch_from(self.store, self.tier)(outcome)

    def check_sharing(self) -> None:
        """No write waits for a tier, so that what is paged is stored anew."""

    @rule(chance=st.sampled_from((0.0, 0.0, 0.2, 0.6)))
    def let_it_fail(self, chance: float) -> None:
        self.tier.chance = chance

    @rule(times=st.integers(1, 3))
    def page_out(self, times: int) -> None:
        with suppress(TierAway):
            while times and self.mover.out():
                times -= 1

    @rule()
    def rewrite(self) -> None:
        with suppress(TierAway):
            self.mover.rewrite()

    @precondition(lambda self: self.store.pool.pieces.count)
    @rule(which=st.integers(0, 20))
    def page_back(self, which: int) -> None:
        numbers = self.store.pool.pieces.numbers()
        with suppress(TierAway):
            self.mover.back(numbers[which % len(numbers)])

    @rule()
    def sweep(self) -> None:
        with suppress(TierAway):
            self.mover.sweep()

    @precondition(lambda self: self.half is None)
    @rule()
    def page_out_half(self) -> None:
        """Records are gathered and put, and all kinds of things happen to them before they are published."""
        paging = self.store.paging
        paging.begin(paging.coldest(2))
        while paging.scan():
            pass
        paging.sort()
        batch = paging.pick()
        batch.gather({})
        if len(batch):
            piece = self.store.pool.pieces.reserve()
            self.tier.inner.put(piece, batch.data)
            self.half, self.half_piece = batch, piece

    @precondition(lambda self: self.half is not None)
    @rule()
    def page_out_other_half(self) -> None:
        assert self.half is not None
        self.store.paging.publish(self.half, self.half_piece, word_of(self.half.data))
        self.half = None

    @rule()
    def reopen(self) -> None:
        self.half = None
        super().reopen()
        with suppress(TierAway):
            assert not self.mover.reconcile()

    @rule()
    def verify(self) -> None:
        result = Verification()
        check = PieceCheck(self.store, result)
        verify_pieces.run(check.steps(), self.tier.inner)
        run(steps(self.store, result, repair=False, unreadable=check.unreadable))
        assert not result.found, result.findings[0].text

    def teardown(self) -> None:
        self.tier.chance = 0.0
        try:
            self.check_at_the_end()
        finally:
            self.tier.close()
            super().teardown()

    def check_at_the_end(self) -> None:
        if self.half is not None:
            self.page_out_other_half()
        self.volumes_are_as_modelled()
        for number in list(self.models):
            run(self.store.delete_steps(self.store.volumes[number]))
        self.models.clear()
        self.mover.sweep()
        assert not self.mover.reconcile() and not self.tier.pieces() and not self.store.pool.pieces.count


def touched(store: Store, volume: Volume) -> list[int]:
    """The blocks that lseek(2) calls data, found as `cp --sparse` finds them."""
    blocks: list[int] = []
    position = 0
    while (start := volume.seek(position, data=True)) < volume.size_bytes:
        position = volume.seek(start, data=False)
        assert start < position <= volume.size_bytes
        blocks.extend(range(start // BLOCK_BYTES, -(-position // BLOCK_BYTES)))
    return blocks


SETTINGS = settings(
    max_examples=12,
    stateful_step_count=40,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

TestStoreInMemory = StoreMachine.TestCase
TestStoreInMemory.settings = SETTINGS
TestStoreInDirectory = DirectoryMachine.TestCase
TestStoreInDirectory.settings = SETTINGS
TestStoreWithTier = PagingMachine.TestCase
TestStoreWithTier.settings = SETTINGS


@pytest.mark.nightly
class TestAtLength:
    """The same with many more examples."""

    @pytest.mark.parametrize("machine", (StoreMachine, DirectoryMachine, PagingMachine))
    def test_store(self, machine: type[StoreMachine]) -> None:
        run_state_machine_as_test(machine, settings=settings(SETTINGS, max_examples=150))
