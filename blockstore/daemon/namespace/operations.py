"""What pyfuse3 asks of the file system: names, attributes, open files. The data is the lane's (lane.py).

Runs in trio's thread. The store is reached in steps that hold the store lock, so that neither the lane nor this thread
waits long for the other.
"""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

import pyfuse3
import trio
from pyfuse3 import FileHandleT, FileNameT, FlagT, InodeT, ModeT

from blockstore.daemon.fuse.relay import TICKET_RESENT
from blockstore.daemon.lane.stepper import Stepper
from blockstore.daemon.namespace import file_limit
from blockstore.daemon.namespace.names import MAXIMUM_NAME_BYTES, Inode, Names
from blockstore.errors import BlockstoreError, CorruptBlock, InputError, OutOfRoom
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import SECTOR_BYTES
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

log = logging.getLogger(__name__)

ATTRIBUTES_VALID_S: Final = 1.0
"""Sizes and times of files change only through this mount, which the kernel follows; the blocks in use do not."""

NAMES_VALID_S: Final = 300.0

SPARSE_LIMIT_BYTES: Final = 16 << 20
"""cp(1) copies a file with fewer sectors than its size asks for piece by piece, through its own memory, and clones
any other one whole. A file that holds more than this is therefore called full; copying less takes no time."""

_DOTS: Final = (b".", b"..")


class Operations(pyfuse3.Operations):
    """One mount."""

    supports_dot_lookup = True
    enable_writeback_cache = False

    def __init__(
        self,
        names: Names,
        store: Store,
        store_lock: StoreLock,
        stepper: Stepper,
        state_free_bytes: Callable[[], int],
        is_in_use: Callable[[int], bool],
        is_attached: Callable[[int], bool],
    ) -> None:
        """`is_in_use(inode)` asks the kernel whether it holds the inode; it is called in threads of its own.
        `is_attached(inode)` says whether the file is known to be the memory of a VM that runs."""
        super().__init__()
        self._names = names
        self._store = store
        self._store_lock = store_lock
        self._stepper = stepper
        self._state_free_bytes = state_free_bytes
        self._is_in_use = is_in_use
        self._is_attached = is_attached
        self._handles = names.handles()  # fh -> (inode, may it write?)
        self._writers: dict[int, set[int]] = {}  # inode -> fhs that may write
        for handle, (inode, may_write) in self._handles.items():
            if may_write:
                self._writers.setdefault(inode, set()).add(handle)
        self._lack = ""  # why no further file can be made
        self._ended: set[int] = set()  # inodes whose VM is known to have ended
        self.initialised = trio.Event()

    def vm_ended(self, inode: int) -> None:
        """The file was the memory of a VM that has ended."""
        self._ended.add(inode)
        self._lend()

    def init(self) -> None:
        """The kernel has said hello: the mount serves."""
        self.initialised.set()

    def writable(self) -> list[int]:
        """Returns the inodes of files that somebody may write to: by an open handle, or a mapping made of one."""
        return list(self._writers)

    def writers_of(self, inode: int, fh: int) -> int:
        """How many open handles other than `fh` may write to the file. Called by the lane's thread too."""
        writers = self._writers.get(inode, ())
        return len(writers) - (fh in writers)

    async def drop_unused(self) -> None:
        """Delete files that have no name and that nobody can reach any more."""
        for inode in self._names.nameless():
            await self._drop_if_unused(inode)

    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with _errors():
            return self._attributes(self._names.lookup(parent_inode, name))

    async def forget(self, inode_list: list[tuple[InodeT, int]]) -> None:  # type: ignore[override]
        # Lookups are not counted: the count would have to outlive this process, and the kernel can be asked.
        with suppress(pyfuse3.FUSEError), _errors():  # the kernel expects no answer
            nameless = set(self._names.nameless())
            for inode, _ in inode_list:
                if inode in nameless:
                    await self._drop_if_unused(inode)

    async def getattr(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with _errors():
            return self._attributes(self._names.get(inode))

    async def setattr(
        self,
        inode: InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        with _errors():
            found = self._names.get(inode)
            changed: dict[str, int] = {}
            if fields.update_mode:
                changed["mode"] = stat.S_IFMT(found.mode) | stat.S_IMODE(attr.st_mode)
            if fields.update_uid:
                changed["uid"] = attr.st_uid
            if fields.update_gid:
                changed["gid"] = attr.st_gid
            if fields.update_atime:
                changed["atime_ns"] = attr.st_atime_ns
            if fields.update_size:
                self._check_not_cut_off(inode, attr.st_size)
                await self._stepper.change(self._store.resize_steps(self._volume(inode), attr.st_size), may_fail=True)
            if fields.update_mtime:
                if found.is_file:
                    self._volume(inode).mtime_ns = attr.st_mtime_ns
                else:
                    changed["mtime_ns"] = attr.st_mtime_ns
            self._names.set(inode, **changed)
            return self._attributes(self._names.get(inode))

    def _check_not_cut_off(self, inode: int, size_bytes: int) -> None:
        """A VM would be killed (SIGBUS) by a look at memory that is not there any more."""
        if size_bytes < self._volume(inode).size_bytes and self._is_attached(inode):
            raise pyfuse3.FUSEError(errno.ETXTBSY)

    async def mknod(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if not stat.S_ISREG(mode):
            raise pyfuse3.FUSEError(errno.EPERM)
        with _errors():
            return self._attributes(self._create_file(parent_inode, name, mode, ctx))

    async def create(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, flags: FlagT, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        with _errors():
            made = self._create_file(parent_inode, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
            return self._opened(made.inode, flags, ctx), self._attributes(made)

    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with _errors():
            return self._attributes(
                self._done_before(ctx)
                or self._names.create(
                    parent_inode,
                    name,
                    stat.S_IFDIR | stat.S_IMODE(mode & ~ctx.umask),
                    ctx.uid,
                    ctx.gid,
                    ticket=_ticket(ctx),
                )
            )

    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with _errors():
            return self._attributes(
                self._done_before(ctx)
                or self._names.create(
                    parent_inode, name, stat.S_IFLNK | 0o777, ctx.uid, ctx.gid, target, ticket=_ticket(ctx)
                )
            )

    async def readlink(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileNameT:
        with _errors():
            return FileNameT(self._names.get(inode).target or b"")

    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        await self._remove(parent_inode, name, ctx, directory=False)

    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: pyfuse3.RequestContext) -> None:
        await self._remove(parent_inode, name, ctx, directory=True)

    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        with _errors():
            if not self._done_before(ctx):
                self._names.rename(parent_inode_old, name_old, parent_inode_new, name_new, flags, ticket=_ticket(ctx))
            self._lend()

    async def link(
        self, inode: InodeT, new_parent_inode: InodeT, new_name: FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.EPERM)  # link(2): "the filesystem does not support hard links"

    async def open(self, inode: InodeT, flags: FlagT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        with _errors():
            volume = self._volume(inode)
            if flags & os.O_TRUNC:  # libfuse asks the kernel to leave it to us (FUSE_ATOMIC_O_TRUNC)
                self._check_not_cut_off(inode, 0)
                await self._stepper.change(self._store.resize_steps(volume, 0))
                self._drop_set_id(inode, ctx)
            return self._opened(inode, flags, ctx)

    def _drop_set_id(self, inode: int, ctx: pyfuse3.RequestContext) -> None:
        """Takes the set-user-ID and set-group-ID bits off a file that another user than root has emptied. The kernel
        does so at each write(2) and truncate(2), but not where it leaves O_TRUNC to us."""
        mode = self._names.get(inode).mode
        kept = mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))
        if ctx.uid and kept != mode:
            self._names.set(inode, mode=kept)

    async def release(self, fh: FileHandleT) -> None:
        inode, may_write = self._handles.pop(fh, (0, False))  # asked again of a new daemon, it may be done
        if may_write:
            self._writers[inode].discard(fh)
            if not self._writers[inode]:
                del self._writers[inode]
        with _errors():
            self._names.release(fh)

    async def flush(self, fh: FileHandleT) -> None:
        return None

    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        return None  # what was answered is in the state; the kernel has written back its pages before it asks

    async def opendir(self, inode: InodeT, ctx: pyfuse3.RequestContext) -> FileHandleT:
        return FileHandleT(inode)

    async def readdir(self, fh: FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        with _errors():
            for position, name, inode in self._listed(fh, start_id):
                if not pyfuse3.readdir_reply(token, FileNameT(name), self._attributes(inode), position):
                    return

    def _listed(self, directory: int, after: int) -> Iterator[tuple[int, bytes, Inode]]:
        """(position, name, inode) of what is behind position `after`: the directory itself, its parent, its entries."""
        for position, name in enumerate(_DOTS, 1):
            if position > after:
                yield position, name, self._names.lookup(directory, name)
        for position, name, inode in self._names.entries(directory, max(after - len(_DOTS), 0)):
            yield position + len(_DOTS), name, inode

    async def releasedir(self, fh: FileHandleT) -> None:
        return None

    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        return None

    async def access(self, inode: InodeT, mode: ModeT, ctx: pyfuse3.RequestContext) -> bool:
        return True  # the kernel decides (default_permissions)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        with self._store_lock:
            pool = self._store.pool_figures()
            files = len(self._store.volumes)
        files_left = file_limit.files_left(files)  # which reads a file, and not with the store lock
        with _errors():
            free_bytes = min(pool.left_bytes, self._state_free_bytes())
            names = self._names.count()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        data.f_blocks = pool.limit_bytes // BLOCK_BYTES
        data.f_bfree = data.f_bavail = free_bytes // BLOCK_BYTES
        data.f_ffree = data.f_favail = files_left
        data.f_files = names + files_left
        data.f_namemax = MAXIMUM_NAME_BYTES
        return data

    def _create_file(self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext) -> Inode:
        before = self._done_before(ctx)
        if before is not None:
            return before
        volumes: list[Volume] = []
        self._check_file_limit()

        def make_volume(made: Inode) -> None:
            with self._store_lock:
                volumes.append(self._store.create_volume(made.inode, made.domain))

        try:
            # A volume without a name is swept away at the next start; a name without a volume would be damage.
            return self._names.create(
                parent, name, mode & ~ctx.umask, ctx.uid, ctx.gid, ticket=_ticket(ctx), before=make_volume
            )
        except BaseException:
            for volume in volumes:
                run(self._store.delete_steps(volume))
            raise

    def _check_file_limit(self) -> None:
        """Raises ENOSPC while what exists already can still go on."""
        told, self._lack = self._lack, file_limit.lack(len(self._store.volumes))
        if not self._lack:
            return
        if self._lack != told:
            log.error("no further file can be made: %s", self._lack)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _opened(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        may_write = flags & os.O_ACCMODE != os.O_RDONLY
        ticket, handle = _ticket(ctx), None
        if ctx.pid & TICKET_RESENT:  # a daemon before this one may have opened it, and died before it could say so
            handle = self._names.opened(inode, may_write=may_write, ticket=ticket)
        if handle is None:
            handle = self._names.open(inode, may_write=may_write, ticket=ticket)
        self._handles[handle] = (inode, may_write)
        if may_write:
            self._writers.setdefault(inode, set()).add(handle)
        # Without keep_cache, any open (of `cp`, of a backup) would drop the pages of a running VM.
        return pyfuse3.FileInfo(fh=FileHandleT(handle), keep_cache=True)

    async def _remove(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext, *, directory: bool) -> None:
        """Take the name away. What it named is deleted when the kernel forgets it."""
        with _errors():
            if not self._done_before(ctx):
                self._names.remove(parent, name, directory=directory, ticket=_ticket(ctx))
            self._lend()

    def _done_before(self, ctx: pyfuse3.RequestContext) -> Inode | None:
        """If a daemon before this one did what is asked for and died before it could say so: what it made or moved."""
        inode = self._names.done(_ticket(ctx)) if ctx.pid & TICKET_RESENT else None
        return None if inode is None else self._names.get(inode)

    def _attributes(self, found: Inode) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = InodeT(found.inode)
        entry.st_mode = ModeT(found.mode)
        entry.st_nlink = found.nlink
        entry.st_uid, entry.st_gid = found.uid, found.gid
        entry.st_rdev = 0
        entry.st_blksize = BLOCK_BYTES
        entry.st_atime_ns, entry.st_mtime_ns, entry.st_ctime_ns = (
            found.atime_ns,
            found.mtime_ns,
            found.ctime_ns,
        )
        entry.st_size = len(found.target or b"")
        entry.st_blocks = 0
        entry.attr_timeout = ATTRIBUTES_VALID_S
        entry.entry_timeout = NAMES_VALID_S
        if found.is_file:
            with self._store_lock:
                volume = self._volume(found.inode)
                entry.st_size = volume.size_bytes
                entry.st_blocks = _sectors(volume)
                entry.st_mtime_ns = volume.mtime_ns
            entry.st_ctime_ns = max(found.ctime_ns, entry.st_mtime_ns)
        return entry

    def _volume(self, inode: int) -> Volume:
        volume = self._store.volumes.get(inode)
        if volume is None or volume.deleted:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return volume

    async def _drop_if_unused(self, inode: int) -> None:
        try:
            if self._names.get(inode).nlink:
                return
        except FileNotFoundError:
            return
        if await trio.to_thread.run_sync(self._is_in_use, inode):
            return  # it is forgotten once more, when the last who has it open is done
        volume = self._store.volumes.get(inode)
        if volume is not None:
            if volume.deleted:  # by another task, which forgets the inode
                return
            await self._stepper.change(self._store.delete_steps(volume))
        self._names.forget(inode)  # no file, or one whose memory went before a daemon was killed
        self._ended.discard(inode)
        self._lend()

    def _lend(self) -> None:
        """Let writes have the room of files that have no name and that no VM can be using, before they are deleted.

        The kernel forgets a file when nobody has it open any more; but it tells us of a close(2) by a background
        request, which waits with write-back, which may wait for just this room.
        """
        unused = [inode for inode in self._names.nameless() if inode not in self._writers or self._has_ended(inode)]
        with self._store_lock:
            self._store.lend_room_of([self._store.volumes[inode] for inode in unused if inode in self._store.volumes])

    def _has_ended(self, inode: int) -> bool:
        return inode in self._ended and not self._is_attached(inode)


def _ticket(ctx: pyfuse3.RequestContext) -> int:
    """The number of the request (relay.py), the same when it is asked again."""
    return int(ctx.pid) & ~TICKET_RESENT


@contextmanager
def _errors() -> Iterator[None]:
    """Turn what the layers below raise into what the kernel understands."""
    try:
        yield
    except OSError as error:
        raise pyfuse3.FUSEError(error.errno or errno.EIO) from None
    except CorruptBlock as error:
        log.error("%s", error)
        raise pyfuse3.FUSEError(errno.EIO) from None
    except OutOfRoom as error:
        log.error("%s", error)
        raise pyfuse3.FUSEError(errno.ENOSPC) from None
    except InputError:
        raise pyfuse3.FUSEError(errno.EFBIG) from None
    except sqlite3.OperationalError as error:
        full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
        log.error("names: %s", error)
        raise pyfuse3.FUSEError(errno.ENOSPC if full else errno.EIO) from None
    except BlockstoreError as error:
        log.error("%s", error)
        raise pyfuse3.FUSEError(errno.EIO) from None
    except pyfuse3.FUSEError:
        raise
    except Exception:
        log.exception("a request failed")
        raise pyfuse3.FUSEError(errno.EIO) from None


def _sectors(volume: Volume) -> int:
    """What stat(2) shall call the file's st_blocks."""
    touched_bytes = volume.touched_blocks * BLOCK_BYTES
    if touched_bytes > SPARSE_LIMIT_BYTES:
        touched_bytes = max(touched_bytes, volume.size_bytes)
    return -(-touched_bytes // SECTOR_BYTES)
