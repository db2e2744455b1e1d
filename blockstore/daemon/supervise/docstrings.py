"""Imports modules without the docstrings of their functions: 0.9 MB of the daemon, where nobody reads them.

`python -OO` would leave out assertions as well, and would compile everything anew at each start where Python may not
write what it compiles.
"""

from __future__ import annotations

import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from opcode import hasconst
from types import CodeType
from typing import Final

_FUNCTION: Final = 0x1 | 0x2
"""CO_OPTIMIZED and CO_NEWLOCALS (inspect): what functions have, and modules and classes have not."""


class WithoutDocstrings:
    """Import within: modules that are found on sys.path come without. Those that are there already stay as they are."""

    def __enter__(self) -> None:
        self._hook = FileFinder.path_hook(
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (_Loader, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )
        sys.path_hooks.insert(0, self._hook)
        sys.path_importer_cache.clear()

    def __exit__(self, *_: object) -> None:
        sys.path_hooks.remove(self._hook)
        sys.path_importer_cache.clear()  # its lists of the files in each directory take memory, too


class _Loader(SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType | None:
        code = super().get_code(fullname)
        return code and without_docstrings(code)


def without_docstrings(code: CodeType) -> CodeType:
    """Returns the code, in which no function has a docstring, however deep it lies."""
    constants = tuple(without_docstrings(each) if isinstance(each, CodeType) else each for each in code.co_consts)
    if _has_docstring(code):
        constants = (None, *constants[1:])
    is_same = all(new is old for new, old in zip(constants, code.co_consts, strict=True))
    return code if is_same else code.replace(co_consts=constants)


def _has_docstring(code: CodeType) -> bool:
    """Is the first constant of a function a docstring, and nothing but that? The compiler keeps equal constants once; a
    string that the code loads stays. An instruction takes two bytes: what it does, and the number of its constant."""
    if code.co_flags & _FUNCTION != _FUNCTION or not (code.co_consts and isinstance(code.co_consts[0], str)):
        return False
    content = code.co_code
    return not any(content[place] in hasconst and not content[place + 1] for place in range(0, len(content), 2))
