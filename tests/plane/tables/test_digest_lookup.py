"""Digests are found by number, and only those that are there."""

from __future__ import annotations

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables.digest_lookup import DigestLookup

KEY = bytes(range(16))


def digest(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "little"), digest_size=16).digest()


@given(
    st.lists(st.integers(0, 50), max_size=60),
    st.lists(st.integers(0, 60), max_size=30),
    st.binary(min_size=16, max_size=16),
)
def test_as_a_dictionary_does(known: list[int], asked: list[int], key: bytes) -> None:
    lookup = DigestLookup(b"".join(map(digest, known)), key)
    assert len(lookup) == len(known)
    expected = [(place, known.index(number)) for place, number in enumerate(asked) if number in known]
    assert lookup.find(b"".join(map(digest, asked))) == expected


@pytest.mark.parametrize("count", (1, 15, 16, 17, 10_000))
def test_all_are_found(count: int) -> None:
    digests = b"".join(map(digest, range(count)))
    assert DigestLookup(digests, KEY).find(digests) == [(number, number) for number in range(count)]
    assert not DigestLookup(digests, KEY).find(digest(count) + digest(count + 1))


def test_digests_that_somebody_chose() -> None:
    """Whatever they have in common, and zeros."""
    near = [number.to_bytes(8, "little") + bytes(8) for number in range(500)]
    near += [bytes(8) + number.to_bytes(8, "little") for number in range(1, 500)]
    near += [(number << 120).to_bytes(16, "little") for number in range(1, 200)]
    digests = b"".join(near)
    assert DigestLookup(digests, KEY).find(digests) == [(number, number) for number in range(len(near))]
    assert DigestLookup(bytes(16) * 1000, KEY).find(bytes(32)) == [(0, 0), (1, 0)]


def test_other_lengths_are_refused() -> None:
    for digests, key in ((bytes(17), KEY), (bytes(16), KEY[1:])):
        with pytest.raises(ValueError, match="digests"):
            DigestLookup(digests, key)
    with pytest.raises(ValueError, match="15 bytes"):
        DigestLookup(b"", KEY).find(bytes(15))
    assert not DigestLookup(b"", KEY).find(bytes(16)) and not DigestLookup(b"", KEY).find(b"")
