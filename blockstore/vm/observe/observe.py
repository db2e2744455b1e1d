"""The whole picture of a mount: what its daemon answers, and what only somebody outside can see, the resident pages.

For `status`, `top`, the metrics and the history alike; in docs/status.md's words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from blockstore.daemon.control import client
from blockstore.daemon.control.bill import PARTS
from blockstore.daemon.host.mounts import Mount
from blockstore.store.accounting.report import Report, complete, files
from blockstore.vm import resident
from blockstore.vm.open_files import open_volume

KEPT: Final = (
    *("daemon_pid", "supervisor_pid", "controller_pid", "controller_ticks", "processes", "restarts", "mounted_at"),
    *("pool_limit", "pool_reserve"),
    *("stalled", "refused_writes", "corrupt_reads", "lost_blocks", "can_be_replaced", "write_back"),
    *("fault_latency", "write_latency", "background", "tier", "tier_latency", "arriving"),
)
"""Of the daemon's answer, what goes to `total` as it is."""


def observe(mount: Mount, timeout_s: float = client.CLIENT_S) -> tuple[Report, dict[str, Any]]:
    """The report, and the daemon's answer that it was made of. Raises MountError, soon while the daemon dies again and
    again."""
    answer = client.ask(mount.state, {"do": "status"}, timeout_s, waits_for_failing=False)
    figures: Report = answer["report"]
    unseen: list[str] = []
    residents = {name: _resident_bytes(mount, name, unseen) for name in files(figures)}
    report = complete(figures, residents, sum(answer["memory"][part] for part in PARTS))
    total, host = report["total"], report["host"]
    total["unseen"] = {"files": len(unseen), "reason": unseen[0]} if unseen else None
    total["state"] = str(mount.state)
    total["daemon_memory_parts"] = answer["memory"]
    total["pool_full"] = full_share(answer)
    total["fragmentation"] = 1 - host["stored"] / host["pool"] if host["pool"] else 0.0
    total["refaults"] = sum(each["refaults"] for each in report["volumes"].values())
    for key in KEPT:
        total[key] = answer.get(key)  # a daemon that was not reloaded yet may know less
    return report, answer


def full_share(answer: Mapping[str, Any]) -> float:
    """The part of the pool's room that is in use; what the file system under the state has not is no room."""
    used, room = answer["pool_used"], answer["pool_room"]
    return float(used / (used + room)) if used + room else 1.0


def _resident_bytes(mount: Mount, name: str, unseen: list[str]) -> int:
    """0 for a file that has no name any more, and for one that cannot be opened: why not is appended to `unseen`."""
    try:
        descriptor = open_volume(mount, name)
    except FileNotFoundError:
        return 0
    except OSError as error:
        unseen.append(error.strerror or str(error))
        return 0
    try:
        return resident.of_descriptor(descriptor).resident
    finally:
        os.close(descriptor)
