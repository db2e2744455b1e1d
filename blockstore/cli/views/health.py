"""Whether a mount is well, from what its daemon answers: for the warnings of `status`, and for monitoring. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from blockstore.cli.types.sizes import counted, format_size
from blockstore.vm.observe.observe import full_share
from blockstore.vm.open_files import NOT_OURS

WARNING_SHARE: Final = 0.80
CRITICAL_SHARE: Final = 0.95
"""Of the pool's room in use: time to look at it, and time to act."""

FEW_INODES: Final = 32
"""Of the file system under the state: each file of the mount takes one, and a `reload` and the history a few more."""

OK, WARNING, CRITICAL, UNKNOWN = range(4)
"""Exit codes of `status --check`, as monitoring systems want them (Monitoring Plugins Development Guidelines)."""

WORDS: Final = ("OK", "WARNING", "CRITICAL", "UNKNOWN")


@dataclass(frozen=True)
class Health:
    """The worst level, and a sentence for everything that is not well."""

    level: int
    sentences: list[str]


def judge(answer: Mapping[str, Any]) -> Health:
    """What the answer to `status` says."""
    found: list[tuple[int, str]] = []
    tier = answer.get("tier")
    if loss := answer.get("state_loss"):
        found.append((CRITICAL, loss))
    found += _room(answer)
    if answer.get("refused_writes"):  # a daemon that was not reloaded yet may know less
        found.append((CRITICAL, f"writes failed for want of room ({answer['refused_writes']}); {_WAIT}"))
    if complaint := answer.get("pool_limit_complaint"):
        found.append((WARNING, complaint))
    if answer["corrupt_reads"]:
        found.append((CRITICAL, f"reads met corrupt blocks ({answer['corrupt_reads']}); {_VERIFY}"))
    if answer["lost_blocks"]:
        found.append((CRITICAL, f"blocks were lost by damaged tables ({answer['lost_blocks']}); {_VERIFY}"))
    written = answer.get("write_back") or {"errors": 0}
    if written["errors"]:
        found.append(_write_back(written))
    if tier and tier["failing_since"]:
        found.append(_failing_tier(tier))
    if tier and tier["missing_pieces"]:
        found.append((CRITICAL, f"the tier {tier['place']} has lost pieces ({tier['missing_pieces']}); {_VERIFY}"))
    arriving = answer.get("arriving") or {"lost_blocks": 0, "sources": []}
    for source in arriving["sources"]:
        if source["failing_since"]:
            found.append((WARNING, f"{source['reason']}; VMs that need what is to come of {source['snapshot']} wait"))
    if arriving["lost_blocks"]:
        found.append(
            (CRITICAL, f"blocks that were to come are not there any more ({arriving['lost_blocks']}); {_PUSH}")
        )
    if answer.get("is_orphaned"):
        found.append((WARNING, "the supervisor has died: the mount ends if the daemon dies too; unmount when you can"))
    return Health(max((level for level, _ in found), default=OK), [sentence for _, sentence in found])


def missing(total: Mapping[str, Any]) -> list[str]:
    """What the figures of observe() do not say, in a sentence; none if they say all."""
    unseen = total["unseen"]
    if not unseen:
        return []
    return [
        f"the resident memory of {counted(unseen['files'], 'file')} cannot be seen and is missing here "
        f"({unseen['reason']}); {NOT_OURS}"
    ]


def _room(answer: Mapping[str, Any]) -> list[tuple[int, str]]:
    """What is said of the pool's room: its limit ends it, or the file system under the state, which no tier relieves
    and no other limit enlarges."""
    share, stalled, tier, space = full_share(answer), answer["stalled"], answer.get("tier"), answer.get("state_space")
    found: list[tuple[int, str]] = []
    if space and space["inodes"] and space["free_inodes"] < FEW_INODES:  # an older daemon does not tell
        left = f"{space['free_inodes'] or 'no'} inodes left of {space['inodes']}"
        when = " when these are used" if space["free_inodes"] else ""
        sentence = f"the file system under {space['place']} has {left}: no file can be made{when}; {_MORE_INODES}"
        found.append((WARNING if space["free_inodes"] else CRITICAL, sentence))
    if space and space["free_bytes"] < answer["pool_left"]:
        free, size = format_size(space["free_bytes"]), format_size(space["size_bytes"])
        which = f"the file system under {space['place']}"
        if stalled:
            found.append((CRITICAL, f"{which} is full ({free} of {size} free), and writes wait ({stalled}); {_FREE}"))
        elif share >= WARNING_SHARE:
            left = f"has {free} of {size} free, less than the pool limit leaves ({format_size(answer['pool_left'])})"
            found.append((_level_of(share), f"{which} {left}; {_FREE}"))
    elif tier and not tier["failing_since"]:  # a pool that is nearly full is as it should be
        if stalled:
            found.append((WARNING, f"writes wait until the tier has taken cold memory ({stalled})"))
    elif stalled:
        found.append((CRITICAL, f"the pool is full, and writes wait ({stalled}); {_MAKE_ROOM}"))
    elif share >= WARNING_SHARE:
        room = format_size(answer["pool_room"])
        found.append((_level_of(share), f"the pool is {share:.0%} full, with room for {room}; {_MAKE_ROOM}"))
    return found


def _level_of(share: float) -> int:
    return CRITICAL if share >= CRITICAL_SHARE else WARNING


def _failing_tier(tier: Mapping[str, Any]) -> tuple[int, str]:
    if not tier.get("reads_fail", True):
        return WARNING, f"{tier['reason']}; nothing more goes there, and what is in it is read as before"
    waiting = tier["reads_waiting"]
    who = f"VMs wait for what is in it ({waiting})" if waiting else "VMs that need what is in it wait"
    return CRITICAL if waiting else WARNING, f"{tier['reason']}; {who} until it is back"


def _write_back(figures: Mapping[str, Any]) -> tuple[int, str]:
    if figures["lost"]:
        return CRITICAL, f"write-back failed, and memory could not be written again ({figures['lost']}); {_LOST}"
    size = format_size(figures["rewritten_bytes"])
    return WARNING, f"write-back failed ({figures['errors']}); {size} were written again, nothing is lost; {_WRITTEN}"


_LOST: Final = (
    "daemon.log in the state directory names the files; copy their memory before it leaves the page cache, or start "
    "these VMs again"
)
_WRITTEN: Final = "daemon.log in the state directory names the files, and `blockstore verify` ends this warning"
_MAKE_ROOM: Final = "delete files, punch memory, or raise the limit with `blockstore set`"
_FREE: Final = "delete files there or in the mount, punch memory, or make that file system larger"
_MORE_INODES: Final = "delete files there or in the mount, or give that file system more inodes"
_PUSH: Final = "delete what was pulled, and push and pull it again"
_WAIT: Final = "no more data can wait until the pool has room; `blockstore reload` ends this warning"
_VERIFY: Final = "`blockstore verify` tells which, and ends this warning when all is well"
