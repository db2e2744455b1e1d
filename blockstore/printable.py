"""Text that comes from others (names of files and processes, what daemons and QEMUs say), made fit to be shown or sent.

Tenants name their files as they like, and root reads the names. Everything that goes to a terminal, a log or a page
goes through `printable`; what goes into JSON or to Prometheus through `in_utf8` or `distinct`. Imports nothing, because
the supervisor imports it (daemon/supervise/lean.py).
"""

from __future__ import annotations

TYPE_CHECKING = False  # so that the supervisor does without typing (daemon/supervise/lean.py)
if TYPE_CHECKING:
    from collections.abc import Iterable

# Compared with, not looked up in sets of letters: these took 0.3 MB in each process that lives as long as a mount.
_FIRST_SURROGATE, _LAST_SURROGATE = "\ud800", "\udfff"
_FIRST_BYTE, _LAST_BYTE = "\udc80", "\udcff"
"""What stands in a str for a byte that is not UTF-8 (PEP 383)."""


class Printable(str):
    """Text that has been escaped, or a piece of such: to escape it again would show another name."""

    __slots__ = ()


def printable(text: str) -> Printable:
    r"""Returns the text without anything that a terminal obeys or that ends a line: control characters, those that turn
    the direction of writing, other invisible ones, and bytes that are not UTF-8 are escaped (\x1b, \u202e, \xff). A
    backslash is doubled, so that no two texts are shown alike. Text that is Printable already stays as it is."""
    if isinstance(text, Printable):
        return text
    return Printable(text if text.isprintable() and "\\" not in text else "".join(map(_shown, text)))


def in_utf8(text: str) -> str:
    r"""Returns the text with escapes (\xff) in the place of what no UTF-8 can hold. JSON's own escapes of these bytes
    (\udcff) are refused by strict parsers."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return "".join(_shown(letter) if _FIRST_SURROGATE <= letter <= _LAST_SURROGATE else letter for letter in text)


def in_json(text: str) -> str:
    """Returns the text as a string of JSON, in ASCII, for a process that does without the module json."""
    return f'"{"".join(map(_json_letter, text))}"'


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


def _json_letter(letter: str) -> str:
    if letter.isascii() and letter.isprintable() and letter not in '"\\':
        return letter
    units = letter.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _shown(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if letter.isprintable():
        return letter
    code = ord(letter)
    if code < 0x80 or _FIRST_BYTE <= letter <= _LAST_BYTE:
        return f"\\x{code & 0xFF:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
