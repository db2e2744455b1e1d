"""Names and attributes of the mount's files, in SQLite. Sizes and times of last change are the volumes' own.

The first level of directories is the sharing domain: an inode carries the key of its domain, which for
everything below a top-level directory is that directory's inode, and for the rest the root's (docs/glossary.md).
A file never changes its domain: a rename that would is refused with EXDEV, and `mv` copies.

Errors are `OSError` with the errno that the system call shall return.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from blockstore.store.volume import clamp_time_ns

ROOT: Final = 1
MAXIMUM_NAME_BYTES: Final = 255

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS inodes (
    inode INTEGER PRIMARY KEY AUTOINCREMENT, mode INTEGER NOT NULL, uid INTEGER NOT NULL, gid INTEGER NOT NULL,
    nlink INTEGER NOT NULL, domain INTEGER NOT NULL,
    atime_ns INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    target BLOB
) STRICT;
CREATE TABLE IF NOT EXISTS entries (
    entry INTEGER PRIMARY KEY AUTOINCREMENT, parent INTEGER NOT NULL, name BLOB NOT NULL, inode INTEGER NOT NULL,
    UNIQUE (parent, name)
) STRICT;
CREATE INDEX IF NOT EXISTS entries_by_inode ON entries (inode);
CREATE INDEX IF NOT EXISTS nameless_inodes ON inodes (inode) WHERE nlink = 0;
CREATE TABLE IF NOT EXISTS handles (
    handle INTEGER PRIMARY KEY AUTOINCREMENT, inode INTEGER NOT NULL, may_write INTEGER NOT NULL,
    ticket INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS done (slot INTEGER PRIMARY KEY, ticket INTEGER NOT NULL, inode INTEGER NOT NULL) STRICT;
"""

_PAGE_BYTES: Final = 4096
_LOG_PAGES: Final = 64
"""After so many pages the log is written to the database and begins anew, in the room that it has already."""

_CACHE_KIB: Final = 128
"""Of the database, which lies in memory anyway: SQLite keeps 2 MiB of it by default, and half a MiB from the start."""

DONE_SLOTS: Final = 1024
"""Changes that are remembered as done. A change is answered at once, so that only the very last can be asked again."""


@dataclass(frozen=True, slots=True)
class Inode:
    """One row of `inodes`."""

    inode: int
    mode: int
    uid: int
    gid: int
    nlink: int
    domain: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    target: bytes | None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)


class Names:
    """The directory tree, and what a mount must know of it to outlive a daemon: who has what open, what was done.

    One thread uses it. The `ticket` of a change (relay.py) is remembered together with it, so that the same request,
    asked again of the next daemon, can be told from a new one; 0 is nobody's.
    """

    def __init__(self, path: Path, uid: int, gid: int) -> None:
        """Open or create the database; `uid` and `gid` will own a new root."""
        self._db = sqlite3.connect(path, isolation_level=None)
        # The process may die at any time, the machine's memory may not: what is written needs no fsync. The
        # exclusive lock keeps SQLite from mapping a file of its own, which a full tmpfs would turn into SIGBUS, and
        # temporary files would need a descriptor, of which there may be none.
        for pragma in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=OFF", "temp_store=MEMORY"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")
        self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._db.executescript(_SCHEMA)
        self._make_room()
        if self._db.execute("SELECT 1 FROM inodes WHERE inode = ?", (ROOT,)).fetchone() is None:
            now = time.time_ns()
            self._db.execute(
                "INSERT INTO inodes VALUES (?, ?, ?, ?, 2, ?, ?, ?, ?, NULL)",
                (ROOT, stat.S_IFDIR | 0o755, uid, gid, ROOT, now, now, now),
            )

    def _make_room(self) -> None:
        """Let log and database have room of their own, so that names can be removed when nothing else has any."""
        with suppress(sqlite3.OperationalError), self._transaction():
            self._db.execute("CREATE TABLE room (filler BLOB)")
            self._db.execute("INSERT INTO room VALUES (zeroblob(?))", (_LOG_PAGES * _PAGE_BYTES,))
            self._db.execute("DROP TABLE room")

    def forget_mount(self) -> None:
        """The mount begins: nobody has anything open, nothing was asked before."""
        self._db.execute("DELETE FROM handles")
        self._db.execute("DELETE FROM done")

    def open(self, inode: int, *, may_write: bool, ticket: int = 0) -> int:
        """A handle for an open file, a number that no other ever had."""
        row = self._db.execute(
            "INSERT INTO handles (inode, may_write, ticket) VALUES (?, ?, ?) RETURNING handle",
            (inode, may_write, ticket),
        ).fetchone()
        return int(row[0])

    def opened(self, inode: int, *, may_write: bool, ticket: int) -> int | None:
        """The handle that this request was given before; None if it was given none."""
        row = self._db.execute(
            "SELECT max(handle) FROM handles WHERE inode = ? AND may_write = ? AND ticket = ?",
            (inode, may_write, ticket),
        ).fetchone()
        return None if row[0] is None else int(row[0])

    def release(self, handle: int) -> None:
        """The file is closed. It is no error if it was closed before."""
        self._db.execute("DELETE FROM handles WHERE handle = ?", (handle,))

    def handles(self) -> dict[int, tuple[int, bool]]:
        """(inode, may it write?) of all open files, by handle."""
        rows = self._db.execute("SELECT handle, inode, may_write FROM handles")
        return {handle: (inode, bool(may_write)) for handle, inode, may_write in rows}

    def done(self, ticket: int) -> int | None:
        """The inode that the change with this ticket made, moved or removed; None if it was not done."""
        row = self._db.execute("SELECT inode FROM done WHERE slot = ? AND ticket = ?", (ticket % DONE_SLOTS, ticket))
        found = row.fetchone()
        return None if found is None else int(found[0])

    def get(self, inode: int) -> Inode:
        """Raises ENOENT."""
        row = self._db.execute("SELECT * FROM inodes WHERE inode = ?", (inode,)).fetchone()
        if row is None:
            raise _error(errno.ENOENT)
        return Inode(*row)

    def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode with this name; `.` and `..` too. Raises ENOENT, ENAMETOOLONG."""
        if len(name) > MAXIMUM_NAME_BYTES:
            raise _error(errno.ENAMETOOLONG)
        if name == b".":
            return self.get(parent)
        if name == b"..":
            return self.get(self.parent_of(parent))
        row = self._db.execute(
            "SELECT inodes.* FROM entries JOIN inodes USING (inode) WHERE parent = ? AND name = ?",
            (parent, name),
        ).fetchone()
        if row is None:
            raise _error(errno.ENOENT)
        return Inode(*row)

    def entries(self, parent: int, after: int) -> Iterator[tuple[int, bytes, Inode]]:
        """(position, name, inode) of the entries of a directory behind position `after`, in a stable order."""
        rows = self._db.execute(
            "SELECT entry, name, inodes.* FROM entries JOIN inodes USING (inode) "
            "WHERE parent = ? AND entry > ? ORDER BY entry",
            (parent, after),
        )
        for entry, name, *rest in rows:
            yield entry, name, Inode(*rest)

    def create(
        self,
        parent: int,
        name: bytes,
        mode: int,
        uid: int,
        gid: int,
        target: bytes | None = None,
        *,
        ticket: int = 0,
        before: Callable[[Inode], None] | None = None,
    ) -> Inode:
        """A new file, directory or symbolic link. Raises EEXIST, ENOENT, ENAMETOOLONG.

        `before` is called with it before anybody can know of it; when it raises, nothing has been made.
        """
        if len(name) > MAXIMUM_NAME_BYTES:
            raise _error(errno.ENAMETOOLONG)
        now = time.time_ns()
        directory = self.get(parent)
        self._check_not_removed(directory)
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        nlink = 2 if stat.S_ISDIR(mode) else 1
        with self._transaction():
            row = self._db.execute(
                "INSERT INTO inodes (mode, uid, gid, nlink, domain, atime_ns, mtime_ns, ctime_ns, target) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING inode",
                (mode, uid, gid, nlink, directory.domain, now, now, now, target),
            ).fetchone()
            inode: int = row[0]
            if parent == ROOT and stat.S_ISDIR(mode):
                self._db.execute("UPDATE inodes SET domain = inode WHERE inode = ?", (inode,))
            try:
                self._db.execute("INSERT INTO entries (parent, name, inode) VALUES (?, ?, ?)", (parent, name, inode))
            except sqlite3.IntegrityError:
                raise _error(errno.EEXIST) from None
            self._changed(parent, now, links=stat.S_ISDIR(mode))
            made = self.get(inode)
            if before is not None:
                before(made)
            self._remember(ticket, inode)
        return made

    def remove(self, parent: int, name: bytes, *, directory: bool, ticket: int = 0) -> Inode:
        """Take a name away; the inode as it is then. Raises ENOENT, EISDIR, ENOTDIR, ENOTEMPTY."""
        found = self.lookup(parent, name)
        self._check_removable(found, directory)
        with self._transaction():
            self._unlink(parent, name, found)
            self._remember(ticket, found.inode)
        return self.get(found.inode)

    def rename(
        self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int, *, ticket: int = 0
    ) -> Inode | None:
        """rename(2) and its flags; the inode whose name was replaced, as it is then. Raises EINVAL for other flags."""
        if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
            raise _error(errno.EINVAL)
        moved = self.lookup(parent, name)
        self._check_not_removed(self.get(new_parent))
        try:
            replaced: Inode | None = self.lookup(new_parent, new_name)
        except OSError as error:
            if error.errno != errno.ENOENT or flags & RENAME_EXCHANGE:
                raise
            replaced = None
        if replaced is not None and flags & RENAME_NOREPLACE:
            raise _error(errno.EEXIST)
        if replaced is not None and replaced.inode == moved.inode:
            return None
        self._check_domain(moved, parent, new_parent)
        self._check_not_below(moved, new_parent)
        now = time.time_ns()
        if flags & RENAME_EXCHANGE:
            assert replaced is not None
            self._check_domain(replaced, new_parent, parent)
            self._check_not_below(replaced, parent)
            with self._transaction():
                self._point(parent, name, replaced.inode)
                self._point(new_parent, new_name, moved.inode)
                self._changed(parent, now, links=moved.is_directory or replaced.is_directory)
                self._changed(new_parent, now, links=moved.is_directory or replaced.is_directory)
                self._remember(ticket, moved.inode)
            return None
        if replaced is not None:
            self._check_removable(replaced, moved.is_directory)
        with self._transaction():
            if replaced is not None:
                self._unlink(new_parent, new_name, replaced)
            self._db.execute(
                "UPDATE entries SET parent = ?, name = ? WHERE parent = ? AND name = ?",
                (new_parent, new_name, parent, name),
            )
            self._changed(parent, now, links=moved.is_directory)
            self._changed(new_parent, now, links=moved.is_directory)
            self._db.execute("UPDATE inodes SET ctime_ns = ? WHERE inode = ?", (now, moved.inode))
            self._remember(ticket, moved.inode)
        return None if replaced is None else self.get(replaced.inode)

    def set(self, inode: int, **columns: int) -> None:
        """Set attributes of an inode (column names of the table) and its ctime. Times are clamped."""
        columns.setdefault("ctime_ns", time.time_ns())
        columns.update((name, clamp_time_ns(value)) for name, value in columns.items() if name.endswith("_ns"))
        assignments = ", ".join(f"{column} = :{column}" for column in columns)
        self._db.execute(f"UPDATE inodes SET {assignments} WHERE inode = :inode", {**columns, "inode": inode})

    def forget(self, inode: int) -> None:
        """Drop an inode that has no name any more."""
        self._db.execute("DELETE FROM inodes WHERE inode = ? AND nlink = 0", (inode,))

    def files(self) -> dict[int, str]:
        """The path below the root of every regular file; files without a name are called `(deleted N)`, with a ' behind
        it where a file has taken that for its name. No two are alike."""
        paths = {ROOT: ""}
        rows = self._db.execute(
            "WITH RECURSIVE tree (inode, path) AS (SELECT inode, name FROM entries WHERE parent = ? UNION ALL "
            "SELECT entries.inode, CAST(tree.path || X'2F' || entries.name AS BLOB) FROM entries "
            "JOIN tree ON entries.parent = tree.inode) SELECT inode, path FROM tree",
            (ROOT,),
        )
        for inode, path in rows:
            paths[inode] = os.fsdecode(path)
        files = self._db.execute("SELECT inode FROM inodes WHERE mode & ? = ?", (0o170000, stat.S_IFREG))
        found = {inode: paths.get(inode, "") for (inode,) in files}
        nameless = [inode for inode, path in found.items() if not path]
        taken = set(paths.values()) if nameless else set()
        for inode in nameless:
            found[inode] = f"(deleted {inode})"
            while found[inode] in taken:
                found[inode] += "'"
        return found

    def path_of(self, inode: int) -> str | None:
        """Returns the path below the root of one file, by its parents; None if it has no name any more."""
        parts: list[bytes] = []
        while inode != ROOT:
            row = self._db.execute("SELECT parent, name FROM entries WHERE inode = ?", (inode,)).fetchone()
            if row is None:
                return None
            inode = row[0]
            parts.append(row[1])
        return os.fsdecode(b"/".join(reversed(parts)))

    def count(self) -> int:
        """Number of inodes."""
        row = self._db.execute("SELECT count(*) FROM inodes").fetchone()
        return int(row[0])

    def nameless(self) -> list[int]:
        """Inodes that lost their last name while they were open."""
        return [inode for (inode,) in self._db.execute("SELECT inode FROM inodes WHERE nlink = 0")]

    def parent_of(self, inode: int) -> int:
        """The directory that holds a directory; the root holds itself."""
        row = self._db.execute("SELECT parent FROM entries WHERE inode = ?", (inode,)).fetchone()
        return ROOT if row is None else int(row[0])

    def damage(self) -> list[str]:
        """What SQLite finds wrong with the database; at most a hundred sentences."""
        try:
            rows = self._db.execute("PRAGMA integrity_check").fetchall()
        except sqlite3.DatabaseError as error:
            return [f"names.sqlite: {error}"]
        return [f"names.sqlite: {text}" for (text,) in rows if text != "ok"]

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a COMMIT that failed may have ended it
                self._db.execute("ROLLBACK")
            raise

    def _remember(self, ticket: int, inode: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO done VALUES (?, ?, ?)", (ticket % DONE_SLOTS, ticket, inode))

    def _check_not_removed(self, directory: Inode) -> None:
        if not directory.nlink:  # somebody still has it open
            raise _error(errno.ENOENT)

    def _check_removable(self, found: Inode, directory: bool) -> None:
        if found.is_directory != directory:
            raise _error(errno.EISDIR if found.is_directory else errno.ENOTDIR)
        if directory and self._db.execute("SELECT 1 FROM entries WHERE parent = ?", (found.inode,)).fetchone():
            raise _error(errno.ENOTEMPTY)

    def _check_domain(self, moved: Inode, parent: int, new_parent: int) -> None:
        """A top-level directory is its own domain wherever its name is changed at the top level; all else stays."""
        if parent == new_parent:
            return
        if moved.is_directory and ROOT in (parent, new_parent):
            raise _error(errno.EXDEV)
        if moved.domain != self.get(new_parent).domain:
            raise _error(errno.EXDEV)

    def _check_not_below(self, moved: Inode, new_parent: int) -> None:
        if moved.is_directory:
            while new_parent != ROOT:
                if new_parent == moved.inode:
                    raise _error(errno.EINVAL)
                new_parent = self.parent_of(new_parent)

    def _unlink(self, parent: int, name: bytes, found: Inode) -> None:
        now = time.time_ns()
        self._db.execute("DELETE FROM entries WHERE parent = ? AND name = ?", (parent, name))
        self._db.execute("UPDATE inodes SET nlink = 0, ctime_ns = ? WHERE inode = ?", (now, found.inode))
        self._changed(parent, now, links=found.is_directory)

    def _point(self, parent: int, name: bytes, inode: int) -> None:
        self._db.execute("UPDATE entries SET inode = ? WHERE parent = ? AND name = ?", (inode, parent, name))

    def _changed(self, directory: int, now: int, *, links: bool) -> None:
        self._db.execute("UPDATE inodes SET mtime_ns = ?, ctime_ns = ? WHERE inode = ?", (now, now, directory))
        if links:  # a directory has a link from each directory in it
            self._db.execute(
                "UPDATE inodes SET nlink = 2 + (SELECT count(*) FROM entries JOIN inodes AS child USING (inode) "
                "WHERE parent = ? AND child.mode & ? = ?) WHERE inode = ? AND nlink > 0",
                (directory, 0o170000, stat.S_IFDIR, directory),
            )


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))
