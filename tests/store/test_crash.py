"""A process killed at any instruction leaves every block old or new, and a state that can be opened and used."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

import blockstore.store
from blockstore.errors import OutOfRoom
from blockstore.plane.blocks import commit, ranges
from blockstore.plane.moves import publish, reencode
from blockstore.store import domains
from blockstore.store.checks.verify import Verification, steps
from blockstore.store.moves import training
from blockstore.store.moves.mover import Mover
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import DirectoryHome
from blockstore.store.state.rows import Rows
from blockstore.store.steps import Steps
from blockstore.store.steps import run as store_run
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from blockstore.store.volume import Volume
from tests.store import material
from tests.store.invariants import check_store
from tests.store.material import densify, half, kin, near, noise, text
from tests.store.seeds import Seeds

pytestmark = pytest.mark.long

LIMIT_BYTES = 32 << 20
ROUNDS = 20
MAXIMUM_ROUNDS = 20 * ROUNDS
"""How many it may take until a quarter of ROUNDS has died within an operation, instead of between two."""

Model = dict[int, bytes]
"""Volume number -> its bytes."""

Operation = Callable[[Store], None]


def random_content(chance: random.Random, blocks: int) -> bytes:
    """Blocks of all kinds, many of them like each other."""
    makers = (
        lambda: noise(chance.randrange(10_000)),
        lambda: text(chance.randrange(200)),
        lambda: near(text(chance.randrange(50)), chance.randrange(1000)),
        lambda: kin(chance.randrange(50), chance.randrange(300)),
        lambda: half(chance.randrange(300)),
        lambda: bytes(BLOCK_BYTES),
    )
    return b"".join(chance.choice(makers)() for _ in range(blocks))


def random_operation(chance: random.Random, model: Model) -> tuple[Operation, Model]:
    """Something to do, and what the volumes should be afterwards."""
    after, kind = dict(model), chance.random()
    unused = next(number for number in range(1, 100) if number not in model)
    if len(model) < 3:
        after[unused] = b""
        return lambda store: void(store.create_volume(unused, 1 + unused % 2)), after
    number = chance.choice(sorted(model))
    data, skip = model[number], chance.choice((0, 0, 0, 100, 4000))
    offset = chance.randrange(400) * BLOCK_BYTES + skip
    if kind < 0.55:
        new = random_content(chance, chance.randint(1, 200))[: -chance.choice((0, 0, 1, 2000)) or None]
        padded = data.ljust(offset, b"\0")
        after[number] = padded[:offset] + new + padded[offset + len(new) :]
        return lambda store: put(store, store.volumes[number], offset, new), after
    if kind < 0.65:
        length = chance.randrange(300 * BLOCK_BYTES)
        end = min(offset + length, len(data))
        if offset < end:
            after[number] = data[:offset] + bytes(end - offset) + data[end:]
        return lambda store: run(store, store.discard_steps(store.volumes[number], offset, length)), after
    if kind < 0.75:
        after[number] = data[:offset].ljust(offset, b"\0")
        return lambda store: run(store, store.resize_steps(store.volumes[number], offset)), after
    if kind < 0.85:
        other = chance.choice([other for other in sorted(model) if other % 2 == number % 2])
        target, length = model[other], len(data)
        if other == number or not length:
            return lambda store: void(store.upkeep.step()), after
        offset = chance.choice((0, offset))
        padded = target.ljust(offset, b"\0")
        after[other] = padded[:offset] + data + padded[offset + length :]
        return (
            lambda store: run(store, store.clone_steps(store.volumes[number], 0, store.volumes[other], offset, length))
        ), after
    if kind < 0.9:
        del after[number]
        return lambda store: run(store, store.delete_steps(store.volumes[number])), after
    return chance.choice((compact, densify, page_out, page_back)), after


def void(_: object) -> None:
    """Forget a result, so that a call fits Operation."""


def compact(store: Store) -> None:
    """All that is worth doing."""
    while store.upkeep.step():
        pass


def densify_cold(store: Store) -> None:
    """As the daemon does it: what is in full segments."""
    store.densify.begin(0.0, 0.0)
    while store.densify.step():
        pass


def open_store(path: Path) -> Store:
    return Store(DirectoryHome(path), LIMIT_BYTES)


def tier_of(store: Store) -> FileTier:
    """In a file of the state, so that it goes with it."""
    return FileTier(f"{store.pool._place}/spill", store.id)


def contents(store: Store, volume: Volume) -> bytes:
    """All bytes of a volume, some of which may be in the tier."""
    with closing(tier_of(store)) as tier:
        return material.contents(store, volume, tier)


def run(store: Store, steps: Steps) -> None:
    """Take all of them now."""
    with closing(tier_of(store)) as tier:
        store_run(steps, material.fetch_from(store, tier))


def put(store: Store, volume: Volume, offset: int, data: bytes) -> None:
    """Write all of it now."""
    with closing(tier_of(store)) as tier:
        material.put(store, volume, offset, data, tier)


def page_out(store: Store) -> None:
    """All that is in full segments, and what the first piece has is rewritten with others, or comes back."""
    with closing(tier_of(store)) as tier:
        tier.check()
        mover = Mover(store.paging, store.pool, tier, nullcontext())
        while mover.out():
            pass
        mover.rewrite()
        mover.sweep()


def page_back(store: Store) -> None:
    with closing(tier_of(store)) as tier:
        mover = Mover(store.paging, store.pool, tier, nullcontext())
        for piece in store.pool.pieces.numbers()[:1]:
            mover.back(piece)
        mover.sweep()


def check_tier(store: Store) -> None:
    """As a start does it: nothing is missing, and what nobody needs goes."""
    if os.path.exists(f"{store.pool._place}/spill"):
        with closing(tier_of(store)) as tier:
            tier.check()
            mover = Mover(store.paging, store.pool, tier, nullcontext())
            assert not mover.reconcile()
            mover.sweep()
            assert tier.pieces() == store.pool.pieces.numbers()


@pytest.fixture(autouse=True)
def _small_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 4 << 20)


@pytest.fixture(autouse=True)
def _small_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAIN_FROM_BLOCKS", 40)


def check_old_or_new(store: Store, old: Model, new: Model) -> None:
    """Each block of each volume is what it was before the operation or what it should be after it."""
    assert old.keys() & new.keys() <= store.volumes.keys() <= old.keys() | new.keys()
    for number, volume in store.volumes.items():
        found = contents(store, volume)
        deleted = number not in new
        before, after = old.get(number, b""), bytes(len(old[number])) if deleted else new[number]
        sizes = sorted((len(before), len(after)))
        assert sizes[0] <= len(found) <= sizes[1], f"size {len(found)}, not within {sizes}"
        for start in range(0, len(found), BLOCK_BYTES):
            block = found[start : start + BLOCK_BYTES]
            end = start + len(block)
            allowed = [side[start:end].ljust(len(block), b"\0") for side in (before, after)]
            assert block in allowed, f"volume {number}, block {start // BLOCK_BYTES} is neither old nor new"


def check_usable(path: Path) -> None:
    """Grow and fill everything, then delete everything: what a crash left beyond the tables' edges shows up now."""
    store = open_store(path)
    for volume in list(store.volumes.values()):
        size_bytes = volume.size_bytes
        run(store, store.resize_steps(volume, 800 * BLOCK_BYTES))
        assert not any(store.read(volume, size_bytes, BLOCK_BYTES)), "growing a volume brought back bytes"
        next_block = -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
        assert volume.seek(next_block, data=True) == volume.size_bytes
        put(store, volume, 700 * BLOCK_BYTES, text(volume.number) + noise(volume.number) + text(1))
    check_store(store, decode=True)
    compact(store)
    for volume in list(store.volumes.values()):
        run(store, store.delete_steps(volume))
    check_store(store)
    check_tier(store)
    assert store.rows.live == 0 and not store.pool.pieces.count
    store.close()


def work(path: Path, seed: int, model: Model, pipe: int, life_s: float) -> None:
    """The child: random operations until a signal ends it when it has used so much processor time, which a busy machine
    does not change. The n-th byte pair in the pipe brackets the n-th operation."""
    chance = random.Random(seed)
    store = open_store(path)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, life_s)
    while True:
        operation, model = random_operation(chance, model)
        os.write(pipe, b"(")
        operation(store)
        os.write(pipe, b")")


def test_killed_at_random_moments(state_path: Path) -> None:
    open_store(state_path).close()
    model: Model = {}
    chance = random.Random(1)
    in_the_middle = done = 0
    for seed in range(MAXIMUM_ROUNDS):
        if seed >= ROUNDS and in_the_middle >= ROUNDS // 4:
            break
        reader, writer = os.pipe()
        life_s = chance.uniform(0.001, 0.15)
        pid = os.fork()
        if not pid:
            try:
                work(state_path, seed, model, writer, life_s)
            finally:
                os._exit(1)
        os.close(writer)
        log = b""
        while piece := os.read(reader, 65536):
            log += piece
        os.close(reader)
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGPROF, "the child failed"

        replay, before, after = random.Random(seed), model, model
        for _ in range(log.count(b"(")):
            before = after
            _, after = random_operation(replay, before)
        if log.endswith(b"("):
            in_the_middle += 1
        else:
            before = after
        done += log.count(b")")
        store = open_store(state_path)
        check_store(store, decode=True)
        check_old_or_new(store, before, after)
        model = {number: contents(store, volume) for number, volume in store.volumes.items()}
        store.close()
    assert in_the_middle >= ROUNDS // 4 and done >= ROUNDS
    check_usable(state_path)


# Killed at every line: a short life of a store that comes by all that writes.

READ_ONLY = {"codec.py", "decode.py", "fetch.py", "record_cache.py", "steps.py", "wants.py"}
"""Files whose lines write nothing, so that dying in them is dying in their caller."""

_FOLDER = str(Path(blockstore.store.__file__).parent)
Line = tuple[str, int]


def create(number: int, key: int) -> Operation:
    return lambda store: void(store.create_volume(number, key))


def write(number: int, block: int, data: bytes) -> Operation:
    return lambda store: put(store, store.volumes[number], block * BLOCK_BYTES, data)


Life = list[tuple[Operation, Callable[[Model], Model]]]
SHORT_LIFE: Life = []
LIFE_WITH_TIER: Life = []
LIFE_WITH_DICTIONARIES: Life = []

DICTIONARIES = {"dictionaries.py", "dictionary_file.py", "superblock.py", "training.py"}
PAGING = {"file.py", "mover.py", "paging.py", "pieces.py"}
"""Files of which the first life comes by little."""


def then(operation: Operation, effect: Callable[[Model], Model], life: Life = SHORT_LIFE) -> None:
    life.append((operation, effect))


def written(number: int, block: int, data: bytes) -> Callable[[Model], Model]:
    def effect(model: Model) -> Model:
        start = block * BLOCK_BYTES
        old = model[number].ljust(start, b"\0")
        return {**model, number: old[:start] + data + old[start + len(data) :]}

    return effect


_MIXED = b"".join(text(seed) for seed in range(6)) + noise(1) * 2 + bytes(BLOCK_BYTES) + noise(2)[:100]
_SIMILAR = b"".join(near(text(seed), seed) for seed in range(6)) + text(2)
_KIN = b"".join(kin(200 + seed % 4, seed) for seed in range(8)) + b"".join(text(200 + seed) for seed in range(4))
_BULK = b"".join(noise(100 + seed) for seed in range(520))
then(create(1, 1), lambda model: {**model, 1: b""})
then(write(1, 0, _MIXED), written(1, 0, _MIXED))
then(create(2, 1), lambda model: {**model, 2: b""})
then(create(3, 2), lambda model: {**model, 3: b""})
then(write(2, 0, _SIMILAR), written(2, 0, _SIMILAR))
then(write(1, 0, _SIMILAR), written(1, 0, _SIMILAR))
then(write(3, 3, _MIXED), written(3, 3, _MIXED))
then(write(1, 3, _SIMILAR[:BLOCK_BYTES]), written(1, 3, _SIMILAR[:BLOCK_BYTES]))
then(write(1, 5, noise(77)), written(1, 5, noise(77)))
then(
    lambda store: run(store, store.clone_steps(store.volumes[1], 0, store.volumes[2], 8 * BLOCK_BYTES, len(_MIXED))),
    lambda model: {**model, 2: model[2].ljust(8 * BLOCK_BYTES, b"\0") + model[1]},
)
then(
    lambda store: run(store, store.discard_steps(store.volumes[1], 100, 2 * BLOCK_BYTES)),
    lambda model: {**model, 1: model[1][:100] + bytes(2 * BLOCK_BYTES) + model[1][100 + 2 * BLOCK_BYTES :]},
)
then(write(1, 60, _KIN), written(1, 60, _KIN))
then(densify, lambda model: model)  # makes patches of some of these,
then(write(1, 65, _SIMILAR), written(1, 65, _SIMILAR))
then(densify, lambda model: model)  # and gives up what these were against
then(write(1, 1, _BULK), written(1, 1, _BULK))
then(
    lambda store: run(store, store.resize_steps(store.volumes[1], 350 * BLOCK_BYTES + 10)),
    lambda model: {**model, 1: model[1][: 350 * BLOCK_BYTES + 10]},
)
then(
    lambda store: run(store, store.discard_steps(store.volumes[1], 50 * BLOCK_BYTES, 180 * BLOCK_BYTES)),
    lambda model: {**model, 1: model[1][: 50 * BLOCK_BYTES] + bytes(180 * BLOCK_BYTES) + model[1][230 * BLOCK_BYTES :]},
)
then(densify_cold, lambda model: model)
then(compact, lambda model: model)
then(
    lambda store: run(store, store.delete_steps(store.volumes[3])),
    lambda model: {number: data for number, data in model.items() if number != 3},
)
then(create(3, 3), lambda model: {**model, 3: b""})
then(write(3, 0, _MIXED), written(3, 0, _MIXED))


_PAGED = _SIMILAR + _BULK[: 270 * BLOCK_BYTES]
for operation, effect in (
    (create(1, 1), lambda model: {**model, 1: b""}),
    (write(1, 0, _PAGED), written(1, 0, _PAGED)),
    (write(1, 300, _BULK), written(1, 300, _BULK)),
    (page_out, lambda model: model),
    (
        lambda store: run(store, store.discard_steps(store.volumes[1], 20 * BLOCK_BYTES, 500 * BLOCK_BYTES)),
        lambda model: {
            **model,
            1: model[1][: 20 * BLOCK_BYTES] + bytes(500 * BLOCK_BYTES) + model[1][520 * BLOCK_BYTES :],
        },
    ),
    (
        lambda store: put(store, store.volumes[1], 2 * BLOCK_BYTES + 50, noise(7)[:100]),
        lambda model: {
            **model,
            1: model[1][: 2 * BLOCK_BYTES + 50] + noise(7)[:100] + model[1][2 * BLOCK_BYTES + 150 :],
        },
    ),
    (page_out, lambda model: model),
    (page_back, lambda model: model),
):
    then(operation, effect, LIFE_WITH_TIER)


def encode_all(store: Store) -> None:
    """As the daemon does it in time: domains get dictionaries, and all is looked at twice."""
    for hard in (False, True):
        store.recompression.begin_all(hard=hard)
        while store.recompression.step(store.lock) is not None:
            pass


_TEXTS = b"".join(text(1000 + seed) for seed in range(230))
_FEW = 45
for operation, effect in (
    (create(1, 1), lambda model: {**model, 1: b""}),
    (create(2, 2), lambda model: {**model, 2: b""}),
    (write(1, 0, _TEXTS[: _FEW * BLOCK_BYTES]), written(1, 0, _TEXTS[: _FEW * BLOCK_BYTES])),
    (encode_all, lambda model: model),
    (write(1, _FEW, _TEXTS[_FEW * BLOCK_BYTES :]), written(1, _FEW, _TEXTS[_FEW * BLOCK_BYTES :])),
    (write(2, 0, _TEXTS[: _FEW * BLOCK_BYTES]), written(2, 0, _TEXTS[: _FEW * BLOCK_BYTES])),
    (encode_all, lambda model: model),  # the first domain has another one by now
    (encode_all, lambda model: model),  # and the second its first
    (
        lambda store: run(store, store.delete_steps(store.volumes[1])),
        lambda model: {2: model[2]},
    ),
):
    then(operation, effect, LIFE_WITH_DICTIONARIES)


def models(life: Life) -> list[Model]:
    """The volumes before the first operation, and after each."""
    states: list[Model] = [{}]
    for _, effect in life:
        states.append(effect(states[-1]))
    return states


def live_traced(life: Life, path: Path, reached: Callable[[Line, int, int], None]) -> None:
    """Live it, and tell of each line of the store that is reached, and how many operations were begun and done."""
    begun = done = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_FOLDER):
            return None
        if event == "line":
            reached((file, frame.f_lineno), begun, done)
        return trace

    sys.settrace(trace)
    try:
        store = open_store(path)
        for operation, _ in life:
            begun += 1
            operation(store)
            done += 1
        store.close()
    finally:
        sys.settrace(None)


def copy_state(path: Path, target: Path) -> None:
    """What SIGKILL would leave at this moment: all is in the files. Holes in them stay holes."""
    target.mkdir(0o700)
    for file in path.iterdir() if path.exists() else ():
        with file.open("rb", buffering=0) as source, (target / file.name).open("wb", buffering=0) as copy:
            size, position = os.fstat(source.fileno()).st_size, 0
            os.truncate(copy.fileno(), size)
            with suppress(OSError):  # ENXIO: no data from here on
                while position < size:
                    start = os.lseek(source.fileno(), position, os.SEEK_DATA)
                    position = os.lseek(source.fileno(), start, os.SEEK_HOLE)
                    os.pwrite(copy.fileno(), os.pread(source.fileno(), position - start, start), start)


def survive(path: Path, line: Line, begun: int, done: int, states: list[Model]) -> str:
    """Look at what one who died at this line has left; a sentence about what is wrong, or nothing."""
    try:
        store = open_store(path)
        check_store(store, decode=True)
        check_tier(store)
        check_old_or_new(store, states[done], states[begun])
        result = Verification()
        run(store, steps(store, result, repair=False))
        assert not result.found, result.findings[0].text
        store.close()
        check_usable(path)
    except Exception as error:
        name = Path(line[0]).name
        return f"{name}:{line[1]} in operation {begun}: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
    return ""


LIVES = pytest.mark.parametrize(
    ("life", "files"),
    [(SHORT_LIFE, set()), (LIFE_WITH_TIER, PAGING), (LIFE_WITH_DICTIONARIES, DICTIONARIES)],
    ids=["", "tier", "dictionaries"],
)
"""Lives, and the files in whose lines they end; the first in all others."""


@pytest.mark.nightly
@LIVES
def test_killed_at_every_line(state_path: Path, life: Life, files: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the store that this life comes by, the first, the last or some other time."""
    die_at_lines(state_path, life, 1, monkeypatch, files)


@LIVES
def test_killed_at_every_tenth_line(
    state_path: Path, life: Life, files: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at_lines(state_path, life, 10, monkeypatch, files)


def die_at_lines(state_path: Path, life: Life, step: int, monkeypatch: pytest.MonkeyPatch, files: set[str]) -> None:
    """Lives and dies at one of `step` lines."""
    if sys.gettrace():
        pytest.skip("a debugger or coverage uses sys.settrace")
    times: Counter[Line] = Counter()
    seeds = Seeds()
    monkeypatch.setattr(domains, "secrets", seeds)

    def count(line: Line, begun: int, done: int) -> None:
        times[line] += 1

    live_traced(life, state_path, count)
    shutil.rmtree(state_path)
    seeds.drawn = 0
    assert len(times) > 200
    states, chance, wrong = models(life), random.Random(1), []
    due: dict[Line, int] = {}
    for line, often in sorted(times.items()):
        file = Path(line[0]).name
        if file in READ_ONLY or (file not in files if files else file in PAGING | DICTIONARIES - {"superblock.py"}):
            continue
        due[line] = chance.choice((1, often, chance.randint(1, often)))
    due = {line: due[line] for line in list(due)[::step]}
    deaths, copy = len(due), state_path.with_name("left")

    def die(line: Line, begun: int, done: int) -> None:
        if line not in due:
            return
        due[line] -= 1
        if not due[line]:
            del due[line]
            copy_state(state_path, copy)
            drawn = seeds.drawn
            wrong.append(survive(copy, line, begun, done, states))
            seeds.drawn = drawn
            shutil.rmtree(copy)

    live_traced(life, state_path, die)
    assert len(due) < deaths / 20, "the second life has taken another path, and did not come by all so often"
    wrong = [sentence for sentence in wrong if sentence]
    assert not wrong, "\n" + "\n".join(wrong)


POINTS = {False: 25, True: 400}
"""Stores of compiled code before which a life ends, ordinarily and nightly."""

LIFE_OF_RANGES: Life = []
_SOURCE = text(0) + near(text(1), 1) + bytes(BLOCK_BYTES) + noise(1) * 2 + text(2)
_TARGET = text(3) + near(text(3), 3) + noise(2) + noise(1) + noise(3)
for operation, effect in (
    (create(1, 1), lambda model: {**model, 1: b""}),
    (create(2, 1), lambda model: {**model, 2: b""}),
    (write(1, 1, _SOURCE), written(1, 1, _SOURCE)),
    (write(2, 508, _TARGET + text(1)), written(2, 508, _TARGET + text(1))),
    (
        lambda store: run(
            store,
            store.clone_steps(store.volumes[1], 0, store.volumes[2], 507 * BLOCK_BYTES, 7 * BLOCK_BYTES),
        ),
        written(2, 507, bytes(BLOCK_BYTES) + _SOURCE),
    ),
    (
        lambda store: run(store, store.discard_steps(store.volumes[2], 509 * BLOCK_BYTES, 20 * BLOCK_BYTES)),
        written(2, 509, bytes(5 * BLOCK_BYTES)),
    ),
    (
        lambda store: run(store, store.delete_steps(store.volumes[1])),
        lambda model: {2: model[2]},
    ),
):
    then(operation, effect, LIFE_OF_RANGES)
"""Clones and discards across a border of pages of the map: of blocks that are freed, patches among them, and of one
that stays."""

MODULES = pytest.mark.parametrize(
    ("module", "life", "least"),
    [
        (commit, SHORT_LIFE, 2000),
        (publish, SHORT_LIFE, 100),
        (publish, LIFE_WITH_TIER, 500),
        (reencode, SHORT_LIFE, 30),
        (reencode, LIFE_WITH_DICTIONARIES, 100),
        (ranges, LIFE_OF_RANGES, 15),
        (commit, LIFE_OF_RANGES, 90),
    ],
    ids=["commit", "compaction", "tier", "re-encoding", "dictionaries", "ranges", "counts of ranges"],
)
"""What stores, and how often at least in that life."""


@MODULES
@pytest.mark.parametrize("nightly", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["", "nightly"])
def test_killed_before_stores_of_compiled_code(
    state_path: Path, nightly: bool, module: ModuleType, life: Life, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of Python are too coarse there: commit.pyx changes many words of the tables in one."""
    seeds, states = Seeds(), models(life)
    monkeypatch.setattr(domains, "secrets", seeds)
    copy, wrong = state_path.with_name("left"), []
    number = due = 0
    numbers: list[int] = []
    arrivals: list[Callable[[], None]] = []

    def live(reached: Callable[[int, int], None]) -> None:
        nonlocal number
        begun = done = number = seeds.drawn = 0

        def arrive() -> None:
            nonlocal number
            number += 1
            reached(begun, done)

        arrivals.append(arrive)
        module.call_at_points(arrive)
        try:
            store = open_store(state_path)
            for operation, _ in life:
                begun += 1
                operation(store)
                done += 1
            store.close()
        finally:
            module.call_at_points(None)

    def die(begun: int, done: int) -> None:
        nonlocal due
        if due >= len(numbers) or number != numbers[due]:
            return
        due += 1
        copy_state(state_path, copy)
        drawn = seeds.drawn
        module.call_at_points(None)
        wrong.append(survive(copy, (f"{module.__name__}.pyx", number), begun, done, states))
        module.call_at_points(arrivals[-1])
        seeds.drawn = drawn
        shutil.rmtree(copy)

    live(lambda begun, done: None)
    shutil.rmtree(state_path)
    assert number > least
    numbers = sorted(random.Random(2).sample(range(1, number), min(POINTS[nightly], number - 1)))
    live(die)
    assert due == len(numbers), "the second life has not come by as many stores"
    assert not any(wrong), "\n" + "\n".join(filter(None, wrong))


@pytest.mark.parametrize("column", ("where", "digest", "reference", "domain", "count"))
def test_killed_while_the_rows_grow(state_path: Path, column: str) -> None:
    """Growing the columns is many lines, but needs more rows than the short life has."""
    data = b"".join((1 + place).to_bytes(8) * 512 for place in range(6000))
    first = data[: 4000 * BLOCK_BYTES]
    store = open_store(state_path)
    put(store, store.create_volume(1, 1), 0, first)
    store.close()
    pid = os.fork()
    if not pid:
        try:
            store = open_store(state_path)
            array = getattr(store.rows, column)
            grow = array.grow

            def last_act(capacity: int) -> None:
                grow(capacity)
                os.kill(os.getpid(), signal.SIGKILL)

            array.grow = last_act
            put(store, store.volumes[1], 0, data)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "the rows did not grow"
    store = open_store(state_path)
    check_store(store, decode=True)
    check_old_or_new(store, {1: first}, {1: data})
    put(store, store.volumes[1], 0, data)
    assert contents(store, store.volumes[1]) == data
    check_store(store, decode=True)
    assert isinstance(store.rows, Rows)
    store.close()


def die_when_published(volume: Volume, block: int) -> None:
    """Has the process killed before its next store after this block has another map entry: the size comes later,
    stored by compiled code, or by Python when it had to make room."""
    before = volume.lookup(block)

    def die_if_it_has(size_bytes: int = 0) -> None:
        if volume.lookup(block) != before:
            os.kill(os.getpid(), signal.SIGKILL)

    commit.call_at_points(die_if_it_has)
    volume.set_size = die_if_it_has  # type: ignore[method-assign]


def test_killed_before_the_size_is_stored(state_path: Path) -> None:
    """What a write or a clone put into the map beyond the old size is not part of the volume; it must not come back."""
    store = open_store(state_path)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1))
    store.close()
    pid = os.fork()
    if not pid:
        try:
            store = open_store(state_path)

            die_when_published(store.volumes[1], 2)
            put(store, store.volumes[1], BLOCK_BYTES, noise(2) + text(1))
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    store = open_store(state_path)
    volume = store.volumes[1]
    check_store(store, decode=True)
    run(store, store.resize_steps(volume, 3 * BLOCK_BYTES))
    other = store.create_volume(2, 1)
    put(store, other, 0, noise(3) + noise(4))  # takes the rows that the killed write left
    assert contents(store, volume) == noise(1) + bytes(2 * BLOCK_BYTES)
    run(store, store.discard_steps(volume, 0, volume.size_bytes))
    assert contents(store, other) == noise(3) + noise(4)
    check_store(store, decode=True)
    store.close()


@pytest.mark.parametrize("grow", ("resize", "write", "clone"))
def test_killed_before_the_size_is_stored_in_the_last_block(state_path: Path, grow: str) -> None:
    """The last block is written whole while the old size ends within it: what is behind the size must not come back."""
    store = open_store(state_path)
    put(store, store.create_volume(1, 1), 0, noise(1)[:1000])
    store.close()
    pid = os.fork()
    if not pid:
        try:
            store = open_store(state_path)

            die_when_published(store.volumes[1], 0)
            put(store, store.volumes[1], 0, noise(2))
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    store = open_store(state_path)
    volume = store.volumes[1]
    size_bytes = volume.size_bytes
    found = contents(store, volume)
    assert found in (noise(1)[:1000], noise(2)[:1000], noise(2), noise(1)[:1000] + bytes(BLOCK_BYTES - 1000))
    if grow == "clone":
        source, volume = volume, store.create_volume(2, 1)
        run(store, store.clone_steps(source, 0, volume, 0, size_bytes))
    if grow == "write":
        put(store, volume, 2 * BLOCK_BYTES - 1, b"\0")
    else:
        run(store, store.resize_steps(volume, 2 * BLOCK_BYTES))
    assert contents(store, volume) == found + bytes(2 * BLOCK_BYTES - size_bytes)
    check_store(store, decode=True)
    store.close()


def test_a_full_pool_can_be_opened_after_a_kill(state_path: Path) -> None:
    """Whatever a start has to repair, it must not need room: a full pool is when processes get killed."""
    store = open_store(state_path)
    volume, filler, block = store.create_volume(1, 1), store.create_volume(2, 1), 0
    put(store, volume, 0, noise(1))
    with pytest.raises(OutOfRoom):
        while True:
            put(store, filler, block * BLOCK_BYTES, noise(100 + block))
            block += 1
    volume.set_size(1000)  # as a write that was killed before it stored the new size leaves it
    store.close()
    store = open_store(state_path)
    volume = store.volumes[1]
    check_store(store, decode=True)
    assert contents(store, volume) == noise(1)[:1000]
    assert contents(store, store.volumes[2]) == b"".join(map(noise, range(100, 100 + block)))
    run(store, store.delete_steps(store.volumes[2]))
    run(store, store.resize_steps(volume, 2 * BLOCK_BYTES))
    assert contents(store, volume) == noise(1)[:1000] + bytes(2 * BLOCK_BYTES - 1000)
    store.close()
