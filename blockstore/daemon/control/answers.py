"""What the daemon answers on its control socket: one coroutine for each thing that can be asked."""

from __future__ import annotations

import json
import os
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from blockstore.daemon.control import bill, server
from blockstore.daemon.control.attachments import own_pid_namespace
from blockstore.daemon.control.client import Answer
from blockstore.daemon.host import memory_limit
from blockstore.daemon.namespace.snapshot_names import snapshots
from blockstore.daemon.options import DEFAULT_BACKGROUND_CPU, MOST_PATTERNS_BYTES
from blockstore.daemon.state.verification import OnlineVerification
from blockstore.daemon.supervise.notify_message import RELOAD_EXIT_CODE
from blockstore.daemon.tiers.sources import Place
from blockstore.errors import BlockstoreError, StateLost
from blockstore.store.accounting import census
from blockstore.store.accounting.report import describe
from blockstore.store.state.home import space_under

if TYPE_CHECKING:
    from blockstore.daemon.session import Session

CHECK_S: Final = 8.0
"""How long the code that is installed now may take to say that it would start; less than a client may take."""

BILL_S: Final = 0.5
"""How long `status` waits to learn what the processes weigh. To look at the controller's memory may take as long as the
controller waits for room in the pool, which is for ever if this daemon waits for it, too."""

LAST_WORD_S: Final = 0.2
"""Between the answer to `reload` and the end: the answer has to leave."""

Request = dict[str, Any]


class Answers:
    """Of one daemon."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._verifying = OnlineVerification(session)
        self._weighing = trio.CapacityLimiter(1)
        self._weighed: bill.Bill | None = None

    def handlers(self) -> dict[str, server.Handler]:
        """By the request's `do`."""
        return {
            "hello": self.hello,
            "status": self.status,
            "reload": self.reload,
            "set": self.set,
            "verify": self.verify,
            "attach": self.attach,
            "detach": self.detach,
            "runs": self.runs,
            "control": self.control,
            "write_errors": self.write_errors,
            "pull": self.pull,
        }

    async def hello(self, request: Request) -> Answer:
        """Who is there, do writes wait for room, and may memory be evicted?"""
        session = self._session
        return {"daemon_pid": os.getpid(), "stalled": session.stalled, "has_looked": session.has_looked}

    async def status(self, request: Request) -> Answer:
        """The census, and how the daemon is. With `each_snapshot` snapshots are volumes, too."""
        session, counted = self._session, census.Census()
        names = session.names.files()
        apart = () if request.get("each_snapshot") else snapshots(names)
        steps = census.steps(session.store, counted, apart)
        await session.stepper.take(session.store.locked(steps))
        if not counted.volumes.keys() <= names.keys():  # one that was made meanwhile
            names = session.names.files()
        report = describe(counted, names)
        with session.store_lock:
            pool = session.store.pool_figures()
        space = space_under(Path(session.options.state))
        for number, figures in zip(counted.volumes, report["volumes"].values(), strict=True):
            volume = session.store.volumes.get(number)
            figures["refaults"] = volume.refaults + volume.range_refaults if volume is not None else 0
            figures["controller"] = session.attachments.describe(number)
        weighed = await self._bill()
        return {
            "report": report,
            "memory": weighed.memory,
            "processes": {name: process._asdict() for name, process in weighed.processes.items()},
            "fault_latency": session.lane.fault_latency.figures(),
            "write_latency": session.lane.write_figures(),
            "daemon_pid": os.getpid(),
            "supervisor_pid": session.supervisor_pid,
            "controller_pid": session.companion.pid,
            "controller_ticks": session.controller_ticks,
            "mounted_at": session.handover.mounted_at,
            "restarts": session.handover.restarts,
            "pool_limit": pool.limit_bytes,
            "pool_reserve": pool.reserve_bytes,
            "pool_limit_complaint": memory_limit.complaint(pool.limit_bytes, memory_limit.of_process()),
            "pool_room": min(pool.left_bytes, space.free_bytes),
            "pool_left": pool.left_bytes,
            "state_space": {"place": session.options.state, **space._asdict()},
            "pool_used": pool.used_bytes,
            "lost_blocks": session.store.lost_blocks,
            "can_be_replaced": session.can_be_replaced,
            "is_orphaned": session.is_orphaned,
            "state_loss": session.state_loss(),
            "stalled": session.stalled,
            "refused_writes": session.lane.refused_writes,
            "corrupt_reads": session.corrupt_reads,
            "tier": session.tier_figures(),
            "tier_latency": session.fetches.latency.figures() if session.tier else None,
            "arriving": session.arriving_figures(),
            "background": session.background.figures(),
            "write_back": session.handover.write_back_figures(),
        }

    async def _bill(self) -> bill.Bill:
        """Returns what the processes weigh, or did when that could be learned last."""
        session, state = self._session, Path(self._session.options.state)
        if self._weighed is None:
            self._weighed = bill.take(session.supervisor_pid, None, state)
        pids = session.supervisor_pid, session.companion.pid
        with trio.move_on_after(BILL_S):
            self._weighed = await trio.to_thread.run_sync(
                bill.take, *pids, state, abandon_on_cancel=True, limiter=self._weighing
            )
        return self._weighed

    async def reload(self, request: Request) -> Answer:
        """Make room for the code that is installed now, if that would start."""
        session = self._session
        if not session.can_be_replaced:
            return {"error": "this daemon cannot be replaced under its mount: nobody holds the mount meanwhile"}
        if loss := session.state_loss():
            return {"error": f"the next daemon could not go on with this state: {loss}", "code": StateLost.exit_code}
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
        """Change `pool_limit`, in bytes, `background_cpu`, per cent or "default", or `attach`, patterns of names, for
        as long as the mount lasts."""
        session, limit_bytes, percent = self._session, request.get("pool_limit"), request.get("background_cpu")
        if percent == "default":
            percent = session.options.background_cpu or DEFAULT_BACKGROUND_CPU
        if type(limit_bytes) is not int and limit_bytes is not None:
            return {"error": "set wants pool_limit, a number of bytes"}
        if percent is not None and not (isinstance(percent, int | float) and 0 <= percent <= 100):
            return {"error": "set wants background_cpu, 0 to 100 per cent"}
        patterns = request.get("attach")
        if patterns is not None and not (
            isinstance(patterns, list) and all(isinstance(each, str) for each in patterns)
        ):
            return {"error": "set wants attach, a list of patterns"}
        if patterns is not None and len(json.dumps(patterns)) > MOST_PATTERNS_BYTES:
            return {"error": f"set wants patterns that take {MOST_PATTERNS_BYTES} bytes as JSON at most"}
        try:
            if limit_bytes is not None:
                with session.store_lock:
                    session.store.set_pool_limit(limit_bytes)
                session.remember(pool_limit_bytes=limit_bytes)
            if percent is not None:
                session.background.cpu_percent = float(percent)
                session.remember(background_cpu=float(percent))
            if patterns is not None:
                session.remember(attach=tuple(patterns))
        except BlockstoreError as error:
            return {"error": str(error), "code": error.exit_code}
        with session.store_lock:
            pool = session.store.pool_figures()
        return {
            "state_room": session.state_free_bytes() + pool.allocated_bytes,
            "pool_limit_complaint": memory_limit.complaint(pool.limit_bytes, memory_limit.of_process()),
            "attach": session.attach_patterns,
        }

    async def verify(self, request: Request) -> Answer:
        """Start a verification, with `repair` or not; tell how far it is (`progress`); end it (`cancel`)."""
        if request.get("cancel"):
            self._verifying.cancel()
            return {}
        if request.get("progress"):
            return self._verifying.progress()
        return self._verifying.start(repair=bool(request.get("repair")))

    async def pull(self, request: Request) -> Answer:
        """Let the file with the number `volume` be the memory of the snapshot `name` that was pushed to `url`; tell how
        far that is (`progress`)."""
        if request.get("progress"):
            return self._session.pull.progress(int(request.get("volume", 0)))
        place = Place(str(request.get("url")), str(request.get("name")))
        return self._session.pull.start(int(request.get("volume", 0)), place)

    async def attach(self, request: Request) -> Answer:
        """A VM's resident part is to be controlled: the fields of an Attachment (attachments.py)."""
        session = self._session
        fields = {key: value for key, value in request.items() if key not in ("do", "pid_namespace")}
        if request.get("pid_namespace") != own_pid_namespace():
            return {"error": "the VM's process is not in the pid name space of the mount; start both in the same one"}
        if fields.get("volume") not in session.store.volumes:
            return {"error": f"the mount has no file with the number {fields.get('volume')!r}", "code": 2}
        try:
            session.attachments.attach(fields)
        except BlockstoreError as error:
            return {"error": str(error), "code": error.exit_code}
        return {}

    async def detach(self, request: Request) -> Answer:
        """The VM of this `volume` has `ended`; if not, it is to be left alone."""
        session, number = self._session, int(request.get("volume", 0))
        if not request.get("ended"):
            session.attachments.let_alone(number)
            return {}
        session.attachments.detach(number)
        session.operations.vm_ended(number)
        return {}

    async def runs(self, request: Request) -> Answer:
        """The VM of this `volume` runs from now on: what was read of its memory before was no wait of it."""
        volume = self._session.store.volumes.get(int(request.get("volume", 0)))
        if volume is not None:
            with self._session.store_lock:
                volume.forget_reads()
        return {}

    async def control(self, request: Request) -> Answer:
        """The controller's: `reports` by volume, `write_errors` as below; the answer is all that it has to know.

        A controller of the daemon before this one (`daemon_pid`) ends when it has the answer. It may have looked for
        lost pages, but before that daemon died: only what it had to mend is still true.

        `volumes` are those that have a controller; `names` are those of all, if it wants them (`all`): to walk the tree
        of 10,000 names takes the main thread long.
        """
        session = self._session
        session.controller_ticks += 1
        if request.get("daemon_pid") == os.getpid():
            session.attachments.report(request.get("reports", {}))
            session.has_looked = session.has_looked or bool(request.get("has_looked"))
        session.heard_of_write_errors(request.get("write_errors", []))
        volumes = [volume for volume in session.store.volumes.values() if volume.number in session.attachments]
        return {
            "daemon_pid": os.getpid(),
            "attachments": session.attachments.all(),
            "stalled": session.stalled,
            "is_fresh": session.is_fresh,
            "volumes": {
                volume.number: {
                    "name": session.names.path_of(volume.number),
                    "refaults": volume.refaults,
                    "range_refaults": volume.range_refaults,
                    "range_requests": volume.range_requests,
                }
                for volume in volumes
            },
            "names": self._names_of_volumes() if request.get("all") else None,
            "unattached": self._unattached(),
        }

    def _unattached(self) -> dict[int, dict[str, Any]]:
        """Returns the files that somebody may write to, and that no attached VM has as memory: each with its name, and
        whether it is one of those whose VMs are to be attached."""
        session = self._session
        found: dict[int, dict[str, Any]] = {}
        if not session.attach_patterns and not session.attachments.all():
            return found
        for number in session.operations.writable():
            name = session.names.path_of(number) if number not in session.attachments else None
            if name is not None and number in session.store.volumes:
                is_wanted = any(fnmatchcase(name, pattern) for pattern in session.attach_patterns)
                found[number] = {"name": name, "is_wanted": is_wanted}
        return found

    def _names_of_volumes(self) -> dict[int, str | None]:
        """By number; None for a file that lost its last name while it was open."""
        names, nameless = self._session.names.files(), set(self._session.names.nameless())
        return {number: None if number in nameless else names.get(number) for number in self._session.store.volumes}

    async def write_errors(self, request: Request) -> Answer:
        """An evictor's: `found` are files whose write-back had failed (vm/memory/write_errors.py, Found)."""
        self._session.heard_of_write_errors(request.get("found", []))
        return {}

    async def _end_soon(self) -> None:
        await trio.sleep(LAST_WORD_S)
        with self._session.store_lock:  # not that it mattered: a daemon may die at any instruction
            os._exit(RELOAD_EXIT_CODE)
