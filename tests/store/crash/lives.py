"""Short lives of a store that come by all that writes, and what its volumes are after each operation."""

from __future__ import annotations

from collections.abc import Callable

from blockstore.store.state.geometry import BLOCK_BYTES
from tests.store.crash.lab import (
    Model,
    Operation,
    compact,
    densify_cold,
    encode_all,
    page_back,
    page_out,
    put,
    run,
    void,
)
from tests.store.material import densify, kin, near, noise, text

Life = list[tuple[Operation, Callable[[Model], Model]]]
SHORT_LIFE: Life = []
LIFE_WITH_TIER: Life = []


def create(number: int, key: int) -> Operation:
    return lambda store: void(store.create_volume(number, key))


def write(number: int, block: int, data: bytes) -> Operation:
    return lambda store: put(store, store.volumes[number], block * BLOCK_BYTES, data)


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


LIFE_WITH_DICTIONARIES: Life = []
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


def models(life: Life) -> list[Model]:
    """The volumes before the first operation, and after each."""
    states: list[Model] = [{}]
    for _, effect in life:
        states.append(effect(states[-1]))
    return states
