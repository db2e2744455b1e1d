"""QEMU's command line, as far as the memory of the guest and our way to speak to QEMU are concerned. Pure.
(qemu(1): -m, -machine, -object, -mon)"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from blockstore.errors import InputError

BACKEND_ID: Final = "blockstore0"

OWN_ID_PREFIX: Final = "blockstore-"
BALLOON_ID: Final = OWN_ID_PREFIX + "balloon"
QMP_ID: Final = OWN_ID_PREFIX + "qmp"
CONSOLE_ID: Final = OWN_ID_PREFIX + "console"

LISTENING: Final = "server=on,wait=off"

_UNITS: Final = {"": 1 << 20, "B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
"""A size without a unit is in MiB."""

_OWN_MEMORY: Final = ("-mem-path", "-mem-prealloc")


def with_memory(
    arguments: Sequence[str], path: str, size_bytes: int, *, balloon: bool, backend: str = BACKEND_ID
) -> list[str]:
    """QEMU's arguments, and those that make the file at `path` its guest's memory. A device state that is loaded calls
    the memory by the id of its `backend`.

    With `balloon` also a virtio-balloon device with free page reporting, unless there is one: what the guest frees
    comes back to the store then. Raises InputError for arguments that do not agree with that.
    """
    _check(arguments, size_bytes)
    # A comma in an option is written twice.
    memory = f"memory-backend-file,id={backend},size={size_bytes},share=on,mem-path={path.replace(',', ',,')}"
    added = ["-object", memory, "-machine", f"memory-backend={backend}"]
    if not any(option == "-m" for option, _ in _options(arguments)):
        added += ["-m", f"{size_bytes >> 20}M"]
    if balloon and not any("virtio-balloon" in value for option, value in _options(arguments) if option == "-device"):
        bus = "device" if _is_microvm(arguments) else "pci"
        added += ["-device", f"virtio-balloon-{bus},id={BALLOON_ID},free-page-reporting=on"]
    return [*arguments, *added]


def with_monitor(arguments: Sequence[str], descriptor: int) -> list[str]:
    """With a QMP monitor at a listening socket. It comes besides those that there are; for QEMU makes its default one
    only where no other is named, that one is named too."""
    mon = ["-chardev", f"socket,id={QMP_ID},fd={descriptor},{LISTENING}", "-mon", f"chardev={QMP_ID},mode=control"]
    return [*arguments, *_default_monitor(arguments), *mon]


def _default_monitor(arguments: Sequence[str]) -> list[str]:
    given = {option for option, _ in _options(arguments)}
    on_serial = any(option == "-serial" and value.startswith("mon:") for option, value in _options(arguments))
    if on_serial or given & {"-nodefaults", "-monitor", "-mon", "-qmp", "-qmp-pretty"}:
        return []
    if "-nographic" not in given:
        return ["-monitor", "vc:80Cx24C"]
    return ["-monitor", "stdio"] if "-serial" in given else ["-serial", "mon:stdio"]


def _check(arguments: Sequence[str], size_bytes: int) -> None:
    for option, value in _options(arguments):
        if option == "-daemonize":
            raise InputError(
                "-daemonize cannot be used: `blockstore run` waits for QEMU; put `run` into the background"
            )
        if option in _OWN_MEMORY:
            raise InputError(f"{option} is what `blockstore run` sets by itself; leave it out")
        if option in ("-machine", "-M") and "memory-backend=" in value:
            raise InputError(f"the memory backend is given twice: leave memory-backend out of {option} {value}")
        if option == "-object" and value.lstrip("{").replace('"', "").removeprefix("qom-type:").strip().startswith(
            "memory-backend-"
        ):
            raise InputError(f"the memory backend is given twice: leave out -object {value}")
        if option == "-numa" and re.search(r"\bmem(dev)?=", value):
            raise InputError(f"a memory of several parts cannot be given to `blockstore run`: leave out -numa {value}")
        if option == "-m":
            given = _memory_bytes(value)
            if given != size_bytes:
                raise InputError(
                    f"-m {value} is not the {size_bytes >> 20} MiB of --memory; give the same, or leave out -m"
                )


def _options(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option with the argument behind it. QEMU takes two dashes for one."""
    for place, option in enumerate(arguments):
        if option.startswith("-"):
            yield "-" + option.lstrip("-"), arguments[place + 1] if place + 1 < len(arguments) else ""


def _memory_bytes(value: str) -> int | None:
    """What `-m 512`, `-m 1G,slots=2` or `-m size=1G` ask for; None for what QEMU would not understand."""
    first = value.split(",")[0].removeprefix("size=")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([BKMGT]?)", first.strip(), re.IGNORECASE)
    return int(float(found[1]) * _UNITS[found[2].upper()]) if found else None


def _is_microvm(arguments: Sequence[str]) -> bool:
    return any("microvm" in value for option, value in _options(arguments) if option in ("-machine", "-M"))
