"""The layers above the store use its face, and reach through it to none of its tables.

import-linter says the same of imports (pyproject.toml); this says it of attributes, such as `store.pool.head`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store

PACKAGE: Final = Path(__file__).parents[1] / "blockstore"
ABOVE: Final = ("cli", "vm", "daemon", "analysis")
DELIBERATE: Final = {"remote", "recompression"}
"""Objects that the face shows."""


def test_nothing_above_the_store_reaches_its_tables() -> None:
    tables = inner_attributes()
    assert {"rows", "pool", "decoder", "upkeep"} <= tables
    uses = 0
    for part in ABOVE:
        for path in [PACKAGE / part] if part.endswith(".py") else (PACKAGE / part).rglob("*.py"):
            used = dict(used_of_store(path.read_text()))
            uses += len(used)
            holes = {line: name for line, name in used.items() if name in tables}
            assert not holes, f"{path.relative_to(PACKAGE)} reaches through the store's face, by line: {holes}"
    assert uses > 50


def test_a_hole_is_found() -> None:
    assert list(used_of_store("head = self._store.pool.head")) == [(1, "pool")]
    assert list(used_of_store("\nfor volume in session.store.volumes: pass")) == [(2, "volumes")]


def inner_attributes() -> set[str]:
    """Names of the attributes of a Store that are objects of its package, but for those that are meant to be used."""
    store = Store(MemoryHome(), 64 << 20)
    try:
        inner = {name for name, value in vars(store).items() if type(value).__module__.startswith("blockstore.store")}
    finally:
        store.close()
    return inner - DELIBERATE


def used_of_store(source: str) -> Iterator[tuple[int, str]]:
    """(line, attribute) of each use of something that is called `store` or `_store`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            owner = node.value.attr if isinstance(node.value, ast.Attribute) else getattr(node.value, "id", "")
            if owner in ("store", "_store"):
                yield node.lineno, node.attr
