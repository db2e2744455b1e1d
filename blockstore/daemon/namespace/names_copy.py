"""The names of a state to look at: a copy, because SQLite may change a database when it opens it."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from blockstore.daemon.namespace.names import Names
from blockstore.errors import StateError


@contextmanager
def copied_names(state: Path) -> Iterator[Names]:
    """The names in this state directory, which nobody serves. Raises StateError when they cannot be read."""
    with tempfile.TemporaryDirectory(prefix="blockstore-names-") as folder:
        path = Path(folder) / "names.sqlite"
        try:
            for suffix in ("", "-wal"):
                source = state / f"{path.name}{suffix}"
                if source.exists():
                    shutil.copyfile(source, f"{path}{suffix}")
            names = Names(path, 0, 0)
        except (OSError, sqlite3.DatabaseError) as error:
            raise StateError(
                f"the state in {state} is damaged: names.sqlite: {error}; restore the directory, "
                "or mount with an empty one"
            ) from None
        with closing(names):
            yield names
