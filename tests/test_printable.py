"""Text of others: nothing of it reaches a terminal, and no two names become one."""

from __future__ import annotations

import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.printable import distinct, in_json, in_utf8, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("vm1", "vm1"),
        ("größe 漢字", "größe 漢字"),
        ("\\x1b \\", "\\\\x1b \\\\"),
        ("\x1b]0;x\x07\n\u202e", "\\x1b]0;x\\x07\\x0a\\u202e"),
        (os.fsdecode(b"a\xff"), "a\\xff"),
        ("\x9b1m\u2028\u200b\U000e0001", "\\u009b1m\\u2028\\u200b\\U000e0001"),
        ("\ud800", "\\ud800"),
    ],
)
def test_what_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown == printable(printable(text))


@given(st.text(st.characters()) | st.binary().map(os.fsdecode))
def test_whatever_it_is(text: str) -> None:
    assert printable(text).isprintable()
    assert re.sub(_ESCAPE, _meant, printable(text)) == text, "no two are shown alike"
    in_utf8(text).encode()
    assert in_utf8(text) == text or not _is_utf8(text)


@given(st.text(st.characters()) | st.binary().map(os.fsdecode))
def test_json_reads_what_was_written_without_it(text: str) -> None:
    assert in_json(text).isascii() and in_json(text).isprintable()
    assert json.loads(in_json(text)) == json.loads(json.dumps(text))


@given(st.lists(st.binary(max_size=3).map(os.fsdecode) | st.sampled_from(["\\xff", "\\xff'", "\\xff''"]), unique=True))
def test_no_two_names_become_one(names: list[str]) -> None:
    found = distinct(names)
    assert len(set(found)) == len(names)
    assert all(label == name for name, label in zip(names, found, strict=True) if _is_utf8(name))
    assert json.loads(json.dumps(found)) == found


def test_a_name_in_utf8_is_never_called_otherwise() -> None:
    assert distinct([os.fsdecode(b"\xff"), "\\xff", "\\xff'"]) == ["\\xff''", "\\xff", "\\xff'"]


_ESCAPE = re.compile(r"\\(?:\\|x(..)|u(....)|U(........))")


def _meant(found: re.Match[str]) -> str:
    if found[1]:
        return os.fsdecode(bytes.fromhex(found[1]))
    return chr(int(found[2] or found[3], 16)) if found[2] or found[3] else "\\"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
