"""A process killed at random moments leaves every block old or new, and a state that can be opened and used."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from blockstore.store.state.geometry import BLOCK_BYTES
from tests.store.crash.lab import (
    Model,
    Operation,
    check_old_or_new,
    check_usable,
    compact,
    contents,
    open_store,
    page_back,
    page_out,
    put,
    run,
    void,
)
from tests.store.invariants import check_store
from tests.store.material import densify, half, kin, near, noise, text

pytestmark = pytest.mark.long


ROUNDS = 20
MAXIMUM_ROUNDS = 20 * ROUNDS
"""How many it may take until a quarter of ROUNDS has died within an operation, instead of between two."""


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
