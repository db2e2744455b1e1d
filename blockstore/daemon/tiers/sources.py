"""Where blocks that are due come from: pushed snapshots in tiers, and which of them a state waits for.

The file `sources` of the state directory names them by number, from before a block is due until none is any more.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.daemon.tiers.tier_health import TierHealth
from blockstore.errors import InputError, StateError
from blockstore.store.remote.pushed import id_of
from blockstore.store.state.home import lack_of_room
from blockstore.store.tiers import Tier, TierAway, open_tier

NAME: Final = "sources"


class SourceAway(TierAway):
    """A source is, and not the tier of this store."""


class Place(NamedTuple):
    """A snapshot `name` that was pushed to the tier at `url`."""

    url: str
    name: str


class Source:
    """A pushed snapshot, to be read. Raises SourceAway where a tier raises TierAway."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._tier: Tier | None = None
        shown = place.url.partition("?")[0]
        self.health = TierHealth(shown, f"VMs that need what is still to come of {place.name} wait")

    def open(self) -> Tier:
        """The tier. Raises InputError for one that cannot be used, which may be mended: a password file, say."""
        if self._tier is None:
            self._tier = open_tier(self.place.url, id_of(self.place.name))
        return self._tier

    def read(self, piece: int, offset: int, length: int) -> bytes:
        """As Tier has it."""
        try:
            data = self.open().read(piece, offset, length)
        except (TierAway, InputError) as error:
            self.health.failed(error)
            raise SourceAway(str(error)) from error
        self.health.answered()
        return data

    def describe(self) -> str:
        """As Tier has it."""
        return self._tier.describe() if self._tier is not None else self.place.url.partition("?")[0]

    def close(self) -> None:
        """As Tier has it."""
        if self._tier is not None:
            self._tier.close()


class Sources:
    """Of one daemon. `numbers` are those that a state needs."""

    def __init__(self, state: Path, numbers: Iterable[int]) -> None:
        """Raises StateError when it is not there."""
        self._path = state / NAME
        self._sources: dict[int, Source] = {}
        places = self._load()
        needed = set(numbers)
        if needed and not places:
            raise StateError(
                f"the state in {state} waits for blocks of another host, and the file '{NAME}', which names it, is "
                "missing; restore the directory, or mount with an empty one"
            )
        # A number that is not there is damage, and what is to come from it is lost.
        self._sources = {number: Source(places[number]) for number in sorted(needed & places.keys())}

    @property
    def readers(self) -> dict[int, Source]:
        """By number. Another dictionary each time that it changes."""
        return self._sources

    def add(self, place: Place) -> int:
        """One more, or one that is there already; its number. Raises OutOfRoom."""
        for number, source in self._sources.items():
            if source.place == place:
                return number
        number = max(self._sources, default=0) + 1
        sources = self._sources | {number: Source(place)}
        self._save({each: source.place for each, source in sources.items()})
        self._sources = sources
        return number

    def forget_all(self) -> None:
        """No block is due any more. Whoever reads from one at the moment still may."""
        self._path.unlink(missing_ok=True)
        self._sources = {}

    def figures(self) -> list[dict[str, Any]]:
        """What `status` tells."""
        return [
            {
                "place": source.describe(),
                "snapshot": source.place.name,
                "failing_since": source.health.failing_since or None,
                "reason": source.health.reason,
            }
            for source in self._sources.values()
        ]

    def close(self) -> None:
        for source in self._sources.values():
            source.close()

    def _load(self) -> dict[int, Place]:
        try:
            fields = json.loads(self._path.read_text())
            return {int(number): Place(*place) for number, place in fields.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise StateError(f"{self._path} cannot be read: {error}; restore it, or mount with an empty one") from None

    def _save(self, places: dict[int, Place]) -> None:
        new = self._path.with_name(f"{NAME}.new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(places, file)
            new.replace(self._path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise lack_of_room(error, str(self._path.parent)) from None
