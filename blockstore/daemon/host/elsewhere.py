"""Where else a mount is: what would keep it alive after an umount(2) of its mountpoint. Reads /proc only.

A bind mount of it or of a file of it, a copy in another mount name space (a container, a service with PrivateMounts=),
what is mounted on a directory of it, and an overlay over one. The copies to which the umount(2) propagates are none of
these: it takes them away too (mount_namespaces(7)). Not to be seen is a name space that no process is in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from blockstore.daemon.host.mounts import Mount, MountLine, command_of, mount_lines, processes

SHOWN: Final = 5
"""Places that a message names."""

_OURS: Final = "self"

_LAYERS: Final = ("lowerdir", "lowerdir+", "datadir+", "upperdir", "workdir")


class Place(NamedTuple):
    """What is there, and the process by which its mount name space can be entered; `process` is None in our own."""

    path: Path
    process: int | None
    is_overlay: bool

    def __str__(self) -> str:
        what = f"{'the overlay' if self.is_overlay else 'the mount'} at {self.path}"
        if self.process is None:
            return what
        return f"{what} in the mount name space of {command_of(self.process)} (process {self.process})"


def places(mount: Mount) -> list[Place]:
    """All of them."""
    lines = _all_lines()
    here = [line for line, process in lines.values() if process == _OURS]
    ours = [line for line in here if line.device == mount.device and line.path == mount.path]
    if not ours:
        return []
    own = ours[-1]  # the last one covers those before
    gone = {own.number, *_propagated(own, {number: line for number, (line, _) in lines.items()})}
    there = {line.number for line, _ in lines.values() if line.device == mount.device}
    found = []
    for line, process in lines.values():
        is_overlay = line.kind == "overlay" and _is_over(line, mount.path)
        if line.number not in gone and (line.number in there or line.parent in there or is_overlay):
            found.append(Place(line.path, None if process == _OURS else int(process), is_overlay))
    return found


def describe(found: list[Place]) -> str:
    """For a message; at most SHOWN."""
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(map(str, found[:SHOWN])) + more


def _all_lines() -> dict[int, tuple[MountLine, str]]:
    """By mount number, with a process that sees it."""
    found: dict[int, tuple[MountLine, str]] = {}
    for process in _name_spaces():
        with contextlib.suppress(OSError):  # gone meanwhile
            for line in mount_lines(Path(f"/proc/{process}/mountinfo")):
                found.setdefault(line.number, (line, process))
    return found


def _name_spaces() -> Iterator[str]:
    """A process of each mount name space, and each root directory in it; our own first. Those of which we may not know
    the name space are all there."""
    seen = {_view(Path(f"/proc/{_OURS}"))}
    yield _OURS
    for process in processes():
        view = _view(process)
        if view is None or view not in seen:
            seen.add(view)
            yield process.name


def _view(process: Path) -> tuple[str, str] | None:
    try:
        return str((process / "ns/mnt").readlink()), str((process / "root").readlink())
    except OSError:
        return None


def _propagated(own: MountLine, lines: dict[int, MountLine]) -> set[int]:
    """The copies that go with ours: mounted at the same place of a mount that is a peer or a slave, over however many
    others, of the one that ours is mounted on."""
    parent = lines.get(own.parent)
    if parent is None or "shared" not in parent.groups:
        return set()
    masters: dict[int, set[int]] = {}
    for line in lines.values():
        if "shared" in line.groups:
            masters.setdefault(line.groups["shared"], set()).update(_masters(line))
    place, gone = _place(parent, own), set[int]()
    for line in lines.values():
        other = lines.get(line.parent)
        if line.number != own.number and line.device == own.device and other is not None:
            groups, reached = {other.groups.get("shared", -1), *_masters(other)}, set[int]()
            while groups:
                reached |= groups
                groups = {master for group in groups for master in masters.get(group, ())} - reached
            if parent.groups["shared"] in reached and _place(other, line) == place:
                gone.add(line.number)
    return gone


def _masters(line: MountLine) -> set[int]:
    """`propagate_from` is the nearest one that is seen, where the master is not."""
    return {line.groups[name] for name in ("master", "propagate_from") if name in line.groups}


def _place(parent: MountLine, child: MountLine) -> Path | None:
    """Where in the file system of its parent a mount is; None if they were seen from different root directories."""
    if not child.path.is_relative_to(parent.path):
        return None
    return Path(parent.root) / child.path.relative_to(parent.path)


def _is_over(overlay: MountLine, path: Path) -> bool:
    """Is a layer of it in this directory?"""
    for option in overlay.options:
        name, _, layers = option.partition("=")
        if name in _LAYERS and any(path in (Path(each), *Path(each).parents) for each in layers.split(":")):
            return True
    return False
