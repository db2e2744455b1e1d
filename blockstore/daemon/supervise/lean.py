"""Starts processes that live as long as a mount in as little memory as Python can do with.

`python -S` leaves out `site`, and what installed packages hook into it: 2 MB of each process. `-c` in the place of
`-m` saves the 0.9 MB of runpy. Such a process sees the standard library, and this package by PYTHONPATH. The daemon
needs all packages, but not what they import for others.

This module, and whatever the supervisor imports, must import next to nothing: typing, pathlib, json, and what `signal`
and `socket` wrap around _signal and _socket, were 3.5 MB of it (tests/daemon/supervise/test_lean.py).
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Final
else:
    ModuleType = type(sys)

_VARIABLE: Final = "PYTHONPATH"

_PROGRAM: Final = "import sys; from blockstore.daemon.supervise import lean; sys.exit(lean.main(sys.argv[1:]))"

_NOT_YET: Final = ("bz2", "idna", "ipaddress", "locale", "lzma", "shutil", "tempfile", "xxhash", "zstandard")
"""Modules that others import, and that next to nobody asks for anything: 1.2 MB."""

_PARTS_OF_TRIO: Final = (
    *("_channel", "_dtls", "_file_io", "_path", "_ssl"),
    *("_highlevel_open_tcp_listeners", "_highlevel_open_tcp_stream", "_highlevel_open_unix_stream"),
    *("_highlevel_serve_listeners", "_highlevel_ssl_helpers"),
)
"""Modules that trio imports to offer what is in them, and that the daemon has no use for: 0.6 MB."""


def command(module: str, *arguments: str) -> list[str]:
    """Returns the command that calls `main(arguments)` of the module without site-packages; to be run in
    `environment()`. The module's name is a word of it, by which the process is recognized."""
    return [sys.executable, "-S", "-c", _PROGRAM, module, *arguments]


def main(arguments: list[str]) -> int:
    """Is the process that `command` has started; returns its exit code."""
    with StandIns(is_typing_plain=True):
        module = __import__(arguments[0], fromlist=["main"])
    code: int = module.main(arguments[1:])
    return code


def environment() -> dict[str, str]:
    """Returns ours, and where this package is."""
    place = __file__.rpartition("/blockstore/")[0]
    before = os.environ.get(_VARIABLE)
    return {**os.environ, _VARIABLE: f"{place}{os.pathsep}{before}" if before else place}


def forget() -> None:
    """Lets processes that such a process starts find packages as if it had been started without `environment`."""
    _, _, before = os.environ.get(_VARIABLE, "").partition(os.pathsep)
    os.environ.pop(_VARIABLE, None)
    if before:
        os.environ[_VARIABLE] = before


class StandIns:
    """Import libraries within: modules stand in for what they import and do not use, 5 MB of the daemon.

    trio has TLS and takes OpenSSL for it, pyfuse3 looks up its version and takes a parser of mail for that; the daemon
    asks for neither, and what stands in for them is empty, as are the classes of _PARTS_OF_TRIO. What stands in for the
    others is the module itself as soon as it is asked for anything. An import afterwards gets all of them as they are;
    only trio stays without those parts. With `is_typing_plain` the module typing is plain_typing.py.
    """

    def __init__(self, *, is_typing_plain: bool = False) -> None:
        self._is_typing_plain = is_typing_plain

    def __enter__(self) -> None:
        metadata = ModuleType("importlib.metadata")
        metadata.__dict__.update(version=_unknown_version, PackageNotFoundError=ModuleNotFoundError)
        modules: dict[str, ModuleType | None] = {
            "ssl": ModuleType("ssl"),
            "_hashlib": None,  # not to be had: hashlib and hmac do without
            "importlib.metadata": metadata,
            **{name: _NotYet(name) for name in _NOT_YET},
            **{f"trio.{name}": _Unused(f"trio.{name}") for name in _PARTS_OF_TRIO},
        }
        if self._is_typing_plain:
            modules["typing"] = _Typing("typing")
        self._added = {name: module for name, module in modules.items() if name not in sys.modules}
        sys.modules.update(self._added)  # type: ignore[arg-type]  # None is what import looks for

    def __exit__(self, *_: object) -> None:
        for name, module in self._added.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


class _NotYet(ModuleType):
    """A module that is imported when it is first asked for anything that it shall have."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the machinery of import
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        found = self.__dict__[name] = getattr(__import__(self.__name__), name)
        return found


class _Typing(ModuleType):
    """What plain_typing.py has, which is not imported for a process that asks for nothing of it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the machinery of import
            raise AttributeError(name)
        from blockstore.daemon.supervise import plain_typing

        return getattr(plain_typing, name)


class _Unused(ModuleType):
    """A module with an empty class of each name that is imported from it."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):  # asked by the machinery of import
            raise AttributeError(name)
        return type(name, (), {})


def _unknown_version(name: str) -> str:
    raise ModuleNotFoundError(name)
