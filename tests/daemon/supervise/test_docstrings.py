"""Modules without docstrings do what they did with them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from blockstore.daemon.supervise.docstrings import WithoutDocstrings

SOURCE = '''
"""Of the module."""

def plain(number):
    """Returns one more."""
    assert number >= 0, "asserts stay"
    return number + 1

def same():
    "both"
    return "both"

def outer():
    """Has one in it."""
    def inner():
        """Is in it."""
        return ["first" for _ in range(2)], (lambda: "alone")(), {"k": "v"}
    return inner

async def later():
    """Is a coroutine."""
    yield "first"

def bare():
    return "no docstring"

class Thing:
    """Of the class."""
    def method(self):
        """Returns itself."""
        return self
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "documented.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        with WithoutDocstrings():
            yield importlib.import_module("documented")
    finally:
        sys.modules.pop("documented", None)


def test_functions_have_none_and_do_the_same(module: Any) -> None:
    functions = (module.plain, module.outer, module.outer(), module.later, module.bare, module.Thing.method)
    assert [function.__doc__ for function in functions] == [None] * len(functions)
    assert not any("Returns" in str(function.__code__.co_consts) for function in functions)
    assert module.plain(1) == 2 and module.bare() == "no docstring"
    assert module.outer()() == (["first", "first"], "alone", {"k": "v"})
    thing = module.Thing()
    assert thing.method() is thing
    with pytest.raises(AssertionError, match="asserts stay"):
        module.plain(-1)


def test_a_docstring_that_the_code_uses_stays(module: Any) -> None:
    assert module.same() == "both"


def test_afterwards_modules_are_imported_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hooks = list(sys.path_hooks)
    with WithoutDocstrings():
        assert sys.path_hooks != hooks
    assert sys.path_hooks == hooks
    (tmp_path / "documented_later.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert importlib.import_module("documented_later").plain.__doc__ == "Returns one more."
    finally:
        sys.modules.pop("documented_later", None)


def test_tracebacks_name_the_line(module: Any) -> None:
    with pytest.raises(AssertionError) as caught:
        module.plain(-1)
    assert caught.traceback[-1].lineno + 1 == SOURCE[: SOURCE.index("assert number")].count("\n") + 1
