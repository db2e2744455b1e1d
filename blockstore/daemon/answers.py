"""What the daemon answers on its control socket: one coroutine for each thing that can be asked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from blockstore.daemon import control_server
from blockstore.daemon.control import Answer
from blockstore.daemon.notify import RELOAD_EXIT_CODE
from blockstore.daemon.verification import OnlineVerification
from blockstore.errors import BlockstoreError, OutOfRoom
from blockstore.store import census
from blockstore.store.report import describe

if TYPE_CHECKING:
    from blockstore.daemon.session import Session

CHECK_S: Final = 8.0
"""How long the code that is installed now may take to say that it would start; less than a client may take."""

LAST_WORD_S: Final = 0.2
"""Between the answer to `reload` and the end: the answer has to leave."""

Request = dict[str, Any]


class Answers:
    """Of one daemon."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._verifying = OnlineVerification(session)

    def handlers(self) -> dict[str, control_server.Handler]:
        """By the request's `do`."""
        return {
            "hello": self.hello,
            "status": self.status,
            "reload": self.reload,
            "set": self.set,
            "verify": self.verify,
        }

    async def hello(self, request: Request) -> Answer:
        """Who is there."""
        return {"daemon_pid": os.getpid()}

    async def status(self, request: Request) -> Answer:
        """The census, and how the daemon is."""
        session, counted, pool = self._session, census.Census(), self._session.store.pool
        await session.stepper.take(census.steps(session.store, counted))
        return {
            "report": describe(counted, session.names.files()),
            "daemon_memory": _own_memory_bytes(),
            "daemon_pid": os.getpid(),
            "supervisor_pid": session.supervisor_pid,
            "restarts": session.handover.restarts,
            "pool_limit": pool.limit_bytes,
            "pool_room": min(pool.free_bytes + pool.garbage_bytes, session.state_free_bytes()),
            "pool_used": pool.allocated_bytes - pool.garbage_bytes,
            "lost_blocks": session.store.lost_blocks,
            "can_be_replaced": session.can_be_replaced,
            "is_orphaned": session.is_orphaned,
            "stalled": session.stepper.stalled + (session.lane.stalled if session.lane else 0),
            "corrupt_reads": session.lane.corrupt_reads if session.lane else 0,
        }

    async def reload(self, request: Request) -> Answer:
        """Make room for the code that is installed now, if that would start."""
        session = self._session
        if not session.can_be_replaced:
            return {"error": "this daemon cannot be replaced under its mount: nobody holds the mount meanwhile"}
        with trio.move_on_after(CHECK_S):
            check = await trio.run_process(
                [sys.executable, "-m", "blockstore.daemon", "--check", session.options.to_json()],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd="/",
            )
            if check.returncode:
                said = check.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
                return {"error": f"the code that is installed now does not start, so the old one goes on: {said[-1]}"}
            trio.lowlevel.spawn_system_task(self._end_soon)
            return {"daemon_pid": os.getpid()}
        return {"error": f"the code that is installed now did not start within {CHECK_S:.0f} s; the old one goes on"}

    async def set(self, request: Request) -> Answer:
        """Change `pool_limit`, in bytes, for as long as the mount lasts."""
        session, limit_bytes = self._session, request.get("pool_limit")
        if type(limit_bytes) is not int:
            return {"error": "set wants pool_limit, a number of bytes"}
        try:
            with session.door:
                session.store.pool.set_limit(limit_bytes)
            session.remember(pool_limit_bytes=limit_bytes)
        except BlockstoreError as error:
            return {"error": str(error), "code": error.exit_code}
        room = session.state_free_bytes() + session.store.pool.allocated_bytes
        return {"pool_limit": limit_bytes, "state_room": room}

    async def verify(self, request: Request) -> Answer:
        """Start a verification, with `repair` or not; tell how far it is (`progress`); end it (`cancel`)."""
        if request.get("cancel"):
            self._verifying.cancel()
            return {}
        if request.get("progress"):
            return self._verifying.progress()
        return self._verifying.start(repair=bool(request.get("repair")))

    async def _end_soon(self) -> None:
        await trio.sleep(LAST_WORD_S)
        with self._session.door:  # not that it mattered: a daemon may die at any instruction
            os._exit(RELOAD_EXIT_CODE)


def _own_memory_bytes() -> int:
    """Memory of this process beside the state's files: its heap, and its part of programs and libraries."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError as error:
        raise OutOfRoom(f"/proc/self/smaps_rollup cannot be read: {error.strerror}") from None
    figures = dict(line.split(":", 1) for line in text.splitlines()[1:] if ":" in line)
    return sum(int(figures[key].split()[0]) << 10 for key in ("Pss_Anon", "Pss_File") if key in figures)
