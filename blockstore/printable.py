"""Text that comes from others (names of files and processes, what daemons and QEMUs say), made fit to be shown or sent.

Tenants name their files as they like, and root reads the names. Everything that goes to a terminal, a log or a page
goes through `printable`; what goes into JSON or to Prometheus through `in_utf8` or `distinct`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

_SURROGATES: Final = frozenset(map(chr, range(0xD800, 0xE000)))
_BYTES: Final = frozenset(map(chr, range(0xDC80, 0xDD00)))
"""What stands in a str for a byte that is not UTF-8 (PEP 383)."""


def printable(text: str) -> str:
    r"""Returns the text without anything that a terminal obeys or that ends a line: control characters, those that turn
    the direction of writing, other invisible ones, and bytes that are not UTF-8 are escaped (\x1b, \u202e, \xff)."""
    return text if text.isprintable() else "".join(map(_shown, text))


def in_utf8(text: str) -> str:
    r"""Returns the text with escapes (\xff) in the place of what no UTF-8 can hold. JSON's own escapes of these bytes
    (\udcff) are refused by strict parsers."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return "".join(_shown(letter) if letter in _SURROGATES else letter for letter in text)


def distinct(names: Iterable[str]) -> list[str]:
    r"""Returns the names in UTF-8, no two of them alike. A name that is UTF-8 stays as it is, whatever the others are;
    one that is not, and would be called as another one (a byte \xff, and a backslash, x, f, f), gets a ' at its end."""
    names = list(names)
    taken = {name for name in names if in_utf8(name) == name}
    found = []
    for name in names:
        label = in_utf8(name)
        if label != name:
            while label in taken:
                label += "'"
            taken.add(label)
        found.append(label)
    return found


def _shown(letter: str) -> str:
    if letter.isprintable():
        return letter
    code = ord(letter)
    if code < 0x80 or letter in _BYTES:
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
