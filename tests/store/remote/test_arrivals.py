"""Blocks that are due: what is read of them, what becomes of them, and that no damage makes one another's."""

from __future__ import annotations

import errno
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.errors import CorruptBlock, InputError, OutOfRoom
from blockstore.plane.tables.arrivals import call_at_points, due_blocks
from blockstore.store.checks import verify
from blockstore.store.checks.verify import Verification
from blockstore.store.remote import fetch, pushed
from blockstore.store.remote.arrivals import Arrivals, entry_of, place_of
from blockstore.store.remote.pushed import Head, Index, Packer
from blockstore.store.state.geometry import BLOCK_BYTES, DENSE, MAXIMUM_DUE, RAW, SEGMENT_BYTES
from blockstore.store.state.home import DirectoryHome, MemoryHome
from blockstore.store.state.location import pack
from blockstore.store.steps import Blocks, NotHere, run
from blockstore.store.store import Store
from blockstore.store.tiers import PieceMissing, Tier
from blockstore.store.tiers.file import FileTier
from blockstore.store.volume import Volume
from tests.store.invariants import check_store
from tests.store.material import near, noise, put, text

BLOCKS = 40
SOURCE = 3
MEMORY = b"".join([*map(text, range(15)), bytes(3 * BLOCK_BYTES), *map(text, range(7)), *map(noise, range(15))])
LIMIT_BYTES = 32 << 20


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tier]:
    tier = FileTier(str(tmp_path_factory.mktemp("tier") / "tier"), pushed.id_of("base"))
    tier.check()
    push(tier, MEMORY)
    yield tier
    tier.close()


def push(tier: Tier, memory: bytes) -> None:
    packer = Packer(len(memory))
    for number in range(len(memory) // BLOCK_BYTES):
        block = memory[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
        if any(block) and (piece := packer.add(number, block)):
            tier.put(*piece)
    if piece := packer.rest():
        tier.put(*piece)
    parts = packer.part(packer.index()), packer.part(b"devices")
    for _, pieces in parts:
        for piece in pieces:
            tier.put(*piece)
    head = Head("base", len(memory), packer.blocks, parts[0][0], parts[1][0], {})
    tier.put(pushed.HEAD, pushed.packed_head(head))


def index_of(tier: Tier) -> Index:
    return pushed.read_index(tier, pushed.read_head(tier, "base"))


def pull(store: Store, volume: Volume, tier: Tier) -> None:
    index = index_of(tier)
    first = store.remote.add(SOURCE, index.where, index.digests)
    store.remote.make_due(volume, 0, index.places, first)


def fetch_to(store: Store, tier: Tier, blocks: Blocks) -> None:
    wants = store.missing(blocks)
    store.keep(fetch.read(None, {SOURCE: tier}, wants))


def read(store: Store, volume: Volume, tier: Tier, number: int) -> bytes:
    while True:
        try:
            return store.decoder.read_block(volume, number)
        except NotHere:
            fetch_to(store, tier, Blocks(volume, number, number + 1))


def settle(store: Store, volume: Volume, tier: Tier, numbers: range) -> None:
    entries = {number: volume.lookup(number) for number in store.remote.due(volume, numbers.start, len(numbers))}
    for number in entries:
        read(store, volume, tier, number)
    assert store.remote.settle(volume, entries) == (len(entries), 0)


@given(st.integers(0, MAXIMUM_DUE - 1), st.integers(0, 63))
def test_no_changed_bit_makes_it_another(place: int, bit: int) -> None:
    entry = entry_of(place)
    assert place_of(entry) == place
    assert place_of(entry ^ 1 << bit) is None
    assert due_blocks(array("Q", [entry, entry ^ 1 << bit]), MAXIMUM_DUE, 7) == [7]


def test_what_is_pushed_is_there_once(source: Tier) -> None:
    index = index_of(source)
    places = list(index.places)
    assert len(index.where) == 30 and max(places) == 30
    assert places[15:18] == [0, 0, 0] and places[18:25] == places[:7]
    head = pushed.read_head(source, "base")
    assert pushed.read_part(source, head, head.device) == b"devices"


def test_an_index_that_cannot_be(tmp_path: Path) -> None:
    """Another host has made it, and its digest is right."""

    def index(places: list[int], sizes: list[int]) -> bytes:
        return array("I", places).tobytes() + array("H", sizes).tobytes() + bytes(16 * len(sizes))

    tier = FileTier(str(tmp_path / "tier"), pushed.id_of("base"))
    tier.check()
    for data, is_sound in (
        (index([0, 2, 1], [1, BLOCK_BYTES]), True),
        (index([0, 3, 1], [1, BLOCK_BYTES]), False),
        (index([0, (1 << 32) - 1, 1], [1, BLOCK_BYTES]), False),
        (index([0, 2, 1], [0, BLOCK_BYTES]), False),
        (index([0, 2, 1], [1, BLOCK_BYTES + 1]), False),
        (index([0, 2, 1], [1, BLOCK_BYTES]) + b"x", False),
        (index([0, 2, 1], [1]), False),
    ):
        layout, pieces = Packer(BLOCK_BYTES).part(data)
        for piece in pieces:
            tier.put(*piece)
        head = Head("base", 3 * BLOCK_BYTES, 2, layout, layout, {})
        if is_sound:
            found = pushed.read_index(tier, head)
            assert list(found.where) == [pack(SEGMENT_BYTES, 1, DENSE), pack(SEGMENT_BYTES + 1, BLOCK_BYTES, RAW)]
        else:
            with pytest.raises(InputError, match="not whole"):
                pushed.read_index(tier, head)
    tier.close()


def test_a_read_changes_nothing(source: Tier) -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    pull(store, volume, source)
    before = volume.entries(0, BLOCKS).tolist()
    assert b"".join(read(store, volume, source, number) for number in range(BLOCKS)) == MEMORY
    assert volume.entries(0, BLOCKS).tolist() == before and store.rows.live == 0
    check_store(store, decode=True)


def test_only_new_blocks_become_due(source: Tier) -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1))
    with pytest.raises(InputError, match="in use"):
        pull(store, volume, source)
    check_store(store, decode=True)


def test_what_is_known_is_not_fetched(source: Tier) -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume, other = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, other, 0, text(0))
    pull(store, volume, source)
    place = place_of(volume.lookup(0))
    assert place is not None
    store.pool.arrivals.known[place] = other.lookup(0)
    assert not store.missing(Blocks(volume, 0, 1))
    assert store.decoder.read_block(volume, 0) == text(0)
    put(store, other, 0, text(99))  # its row goes, and another content may get it
    assert read(store, volume, source, 0) == text(0)


def test_a_tail_that_was_known_and_is_not_here_any_more_is_fetched(source: Tier) -> None:
    """A daemon that was killed has left bytes of a block that is due behind the end; growing the file must not show
    them, nor fail because another file had the same block a moment ago."""
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume, other = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, other, 0, text(0))
    pull(store, volume, source)
    volume.set_size(100)
    volume.has_paged_tail = True
    place = place_of(volume.lookup(0))
    assert place is not None
    store.pool.arrivals.known[place] = other.lookup(0)
    put(store, other, 0, text(99))
    run(store.resize_steps(volume, BLOCK_BYTES), lambda blocks: fetch_to(store, source, blocks))
    assert store.decoder.read_block(volume, 0) == text(0)[:100].ljust(BLOCK_BYTES, b"\0")
    assert not volume.has_paged_tail


def unreadable(store: Store) -> list[int | None]:
    """Where, as `verify` says."""
    result = Verification()
    run(verify.steps(store, result, repair=False))
    return [finding.offset for finding in result.findings]


@pytest.mark.parametrize("what", ["gone", "another", "damaged"])
def test_what_the_source_has_lost(source: Tier, what: str) -> None:
    class Losing:
        def read(self, piece: int, offset: int, length: int) -> bytes:
            if what == "gone":
                raise PieceMissing("gone")
            data = source.read(piece, offset, length)
            return noise(7)[:length].ljust(length, b"x") if what == "another" else bytes([data[0] ^ 1]) + data[1:]

    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    pull(store, volume, source)
    wants = store.missing(Blocks(volume, 0, 1))
    store.keep(fetch.read(None, {SOURCE: Losing()}, wants))
    with pytest.raises(CorruptBlock, match="it was to come from"):
        store.decoder.read_block(volume, 0)
    assert unreadable(store) == [0, 18 * BLOCK_BYTES]
    put(store, volume, 0, noise(5))
    assert unreadable(store) == [18 * BLOCK_BYTES]
    assert store.decoder.read_block(volume, 0) == noise(5)


def test_how_many_are_due_is_known_at_the_start(source: Tier, tmp_path: Path) -> None:
    store = Store(DirectoryHome(tmp_path), LIMIT_BYTES)
    pull(store, store.create_volume(1, 1), source)
    settle(store, store.volumes[1], source, range(5))
    store.close()
    assert Store(DirectoryHome(tmp_path), LIMIT_BYTES).remote.made_due == BLOCKS - 3 - 5


def test_forgotten_at_the_end(source: Tier) -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    pull(store, volume, source)
    dues = store.remote.wanted(volume.entries(0, BLOCKS).tolist())
    fetched = fetch.read(None, {SOURCE: source}, dues)
    settle(store, volume, source, range(BLOCKS))
    assert store.remote.forget_all()
    store.keep(fetched)  # asked for before, answered after
    assert store.pool.arrivals.count == 0 and store.pool.arrivals.get(0) is None
    assert store.read(volume, 0, len(MEMORY)) == MEMORY
    check_store(store, decode=True)


@pytest.mark.parametrize("failing", ("map", "truncate"))
def test_a_table_that_cannot_be_forgotten_stays_in_the_state(
    source: Tier, state_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """Arrivals that were entered into a table which the state has not got would be lost with the daemon."""

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(errno.EIO, "the file system fails")

    places = {
        "map": "blockstore.store.state.shared_array.map_region",
        "truncate": "os.ftruncate",
    }
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    pull(store, store.create_volume(1, 1), source)
    settle(store, store.volumes[1], source, range(BLOCKS))
    with monkeypatch.context() as patch:
        patch.setattr(places[failing], fail)
        with suppress(OSError):
            store.remote.forget_all()
    pull(store, store.create_volume(2, 1), source)
    store.close()
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    assert b"".join(read(store, store.volumes[2], source, number) for number in range(BLOCKS)) == MEMORY
    store.close()


def test_forgotten_arrivals_take_no_room(source: Tier, state_path: Path) -> None:
    """Also of the next start, and of those that are entered again."""
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    pull(store, volume, source)
    settle(store, volume, source, range(BLOCKS))
    assert store.remote.forget_all()
    assert (state_path / "arrivals").stat().st_size == 0 == store.pool.arrivals.size_bytes
    store.close()
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    assert store.remote.contents == 0 and not store.remote.sources
    assert store.remote.forget_all()
    pull(store, store.create_volume(2, 1), source)
    settle(store, store.volumes[2], source, range(BLOCKS))
    check_store(store, decode=True)
    store.close()


def test_killed_while_arrivals_are_entered(source: Tier, tmp_path: Path) -> None:
    index, counts, sources = index_of(source), list[int](), set[int]()
    home = DirectoryHome(tmp_path)
    arrivals = Arrivals(home)

    def look() -> None:
        left = Arrivals(home)
        counts.append(left.count)
        sources.update(left.sources)
        left.close()

    call_at_points(look)
    try:
        arrivals.add(SOURCE, index.where, index.digests)
    finally:
        call_at_points(None)
    look()
    home.close()
    assert counts == [0, *(place for place in range(1, 31) for _ in range(4))]
    assert sources == {SOURCE}, "the next daemon would look for a source that nobody has named"


def test_no_more_than_map_entries_can_name(source: Tier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockstore.store.remote.arrivals.MAXIMUM_DUE", 50)
    store = Store(MemoryHome(), LIMIT_BYTES)
    pull(store, store.create_volume(1, 1), source)
    with pytest.raises(OutOfRoom, match="50"):
        pull(store, store.create_volume(2, 1), source)
    assert store.pool.arrivals.count == 30


NUMBER = st.integers(0, BLOCKS - 1)
STEP = st.one_of(
    st.tuples(st.just("write"), st.integers(0, 1), NUMBER, st.integers(0, 30)),
    st.tuples(st.just("part"), st.integers(0, 1), NUMBER, st.integers(0, 30)),
    st.tuples(st.just("clone"), st.integers(0, 1), NUMBER, NUMBER),
    st.tuples(st.just("discard"), st.integers(0, 1), NUMBER, NUMBER),
    st.tuples(st.just("settle"), st.integers(0, 1), NUMBER, NUMBER),
    st.tuples(st.just("restart"), st.just(0), st.just(0), st.just(0)),
)


@settings(max_examples=40)
@given(st.lists(STEP, max_size=25))
def test_any_order_of_things(source: Tier, steps: list[tuple[str, int, int, int]]) -> None:
    with TemporaryDirectory() as place:
        store = Store(DirectoryHome(Path(place)), LIMIT_BYTES)
        pull(store, store.create_volume(1, 1), source)
        store.create_volume(2, 1)
        model = [bytearray(MEMORY), bytearray()]
        for what, which, one, two in steps:
            if what == "restart":
                store.close()
                store = Store(DirectoryHome(Path(place)), LIMIT_BYTES)
                continue
            take(store, source, model, what, which, one, two)
            check_store(store)
        for number in (0, 1):
            volume = store.volumes[number + 1]
            found = b"".join(read(store, volume, source, each) for each in range(volume.blocks))
            assert found == model[number]
        store.close()


def take(store: Store, source: Tier, model: list[bytearray], what: str, which: int, one: int, two: int) -> None:
    volume, at, size = store.volumes[which + 1], one * BLOCK_BYTES, (two + 1) * BLOCK_BYTES

    def fetched(blocks: Blocks) -> None:
        fetch_to(store, source, blocks)

    if what in ("write", "part"):
        data = near(text(two), one) if what == "write" else b"part"
        model[which] = model[which].ljust(at + BLOCK_BYTES, b"\0")
        model[which][at : at + len(data)] = data
        run(store.resize_steps(volume, len(model[which])), fetched)
        run(store.write_steps(volume, at, data), fetched)
    elif what == "clone":
        copied = model[which][at : at + size]
        run(store.clone_steps(volume, at, store.volumes[2 - which], at, size), fetched)
        if copied:
            model[1 - which] = model[1 - which].ljust(at, b"\0")
            model[1 - which][at : at + len(copied)] = copied
    elif what == "discard":
        run(store.discard_steps(volume, at, size), fetched)
        end = min(at + size, len(model[which]))
        model[which][at:end] = bytes(max(end - at, 0))
    else:
        settle(store, volume, source, range(min(one, two), min(max(one, two), volume.blocks)))
