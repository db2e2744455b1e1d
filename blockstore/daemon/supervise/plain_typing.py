"""Stands in for the module typing in processes that ask nothing of their annotations: 0.7 MB of each.

It has what modules of this package ask for when they are imported, and no more. They are checked with the one that is
meant (mypy); lean.py puts this one in its place.
"""

from __future__ import annotations

from collections import namedtuple

TYPE_CHECKING = False
Any = Final = TypeAlias = object
"""Annotations, which stay text."""


class Protocol:
    """A class like any other."""


class _Maker(type):
    """Makes a named tuple of each class below NamedTuple, with its methods, properties and defaults."""

    def __new__(maker, name: str, bases: tuple[type, ...], namespace: dict[str, object]) -> type:
        if not bases:
            return super().__new__(maker, name, bases, namespace)
        fields: dict[str, str] = namespace.get("__annotations__", {})  # type: ignore[assignment]
        defaults = [namespace[field] for field in fields if field in namespace]
        made = namedtuple(name, fields, defaults=defaults, module=str(namespace["__module__"]))  # type: ignore[misc]
        for key, value in namespace.items():
            if key not in fields and key not in ("__module__", "__qualname__", "__annotations__"):
                setattr(made, key, value)
        return made


class NamedTuple(metaclass=_Maker):
    """`class Each(NamedTuple)` is a tuple with these fields (typing.NamedTuple)."""
