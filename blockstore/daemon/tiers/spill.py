"""Which tier a state has: the file `spill` of the state directory names its URL, from the first mount with one on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from blockstore.errors import InputError, MountError, StateError
from blockstore.store.state import superblock
from blockstore.store.state.home import DirectoryHome, write_in_place
from blockstore.store.store import Store
from blockstore.store.tiers import Tier, TierAway, away_is_an_error, open_tier

NAME: Final = "spill"

SIZE_BYTES: Final = 4096
"""Of the file; a URL is shorter, and padded."""


def open_remembered(state: Path, store: Store) -> Tier | None:
    """The tier of this state, if it has one. Reaches for nothing yet. Raises StateError, InputError."""
    url = _remembered(state)
    if not url and store.tier_pieces:
        raise _nameless(state)
    return open_tier(url, store.id) if url else None


def open_for_mount(state: Path, store: Store, url: str, *, takes_over: bool) -> tuple[Tier | None, list[str]]:
    """The tier for a daemon that is told `url`, or nothing; and warnings.

    A tier that is named for the first time must be there and fit. One that was may be away: then what is in it is
    waited for. Raises InputError, StateError.
    """
    before, pieces = _remembered(state), store.tier_pieces
    if pieces and not before:
        raise _nameless(state)
    if not (url or before):
        return None, []
    if url and pieces and _place(url) != _place(before):
        raise InputError(f"{pieces} pieces of the VMs' memory are in --spill {before}; mount with that, or without any")
    tier = open_tier(url or before, store.id)
    if takes_over:
        return tier, []
    warnings: list[str] = []
    try:
        if pieces:
            tier.pieces()
        else:
            tier.check()
    except TierAway as error:
        if not pieces:
            tier.close()
            raise MountError(f"--spill {tier.describe()} cannot be used: {error}") from None  # and later perhaps
        warnings.append(f"{error}; what is in the tier is waited for")
    except BaseException:
        tier.close()
        raise
    if url and url != before:
        _remember(state, url)
    return tier, warnings


def discard(home: DirectoryHome) -> None:
    """Delete all that a state has in its tier: nobody serves it, and it is about to be deleted. Raises InputError for a
    tier that cannot be used, MountError for one that is away."""
    url = _remembered(home.path)
    if not url:
        return
    tier = open_tier(url, superblock.read_id(home))
    try:
        with away_is_an_error():
            tier.remove()
    finally:
        tier.close()


def _place(url: str) -> str:
    """Without the options, which say how to log in."""
    return url.partition("?")[0]


def _nameless(state: Path) -> StateError:
    return StateError(
        f"the state in {state} has memory of its VMs in a tier, and the file '{NAME}', which names it, is missing; "
        "restore the directory, or mount with an empty one"
    )


def _remembered(state: Path) -> str:
    try:
        return (state / NAME).read_text(errors="surrogateescape").strip(" \n\0")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StateError(f"{state / NAME} cannot be read: {error.strerror}") from None


def _remember(state: Path, url: str) -> None:
    data = os.fsencode(url).ljust(SIZE_BYTES)
    if len(data) > SIZE_BYTES:
        raise InputError(f"--spill has more than {SIZE_BYTES} bytes; use a shorter path")
    write_in_place(state / NAME, data)
