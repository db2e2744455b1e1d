"""The command line of a VM that runs, made ready to start another one: pure. (qemu(1))

What belongs to this one VM alone is taken out: its memory, its monitors, what it began with. The rest must stay as it
is, for the devices of both must be the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from blockstore.errors import InputError
from blockstore.vm.qemu.qemu_arguments import CONSOLE_ID, LISTENING, OWN_ID_PREFIX

_DROPPED: Final = ("-S", "-daemonize", "-pidfile", "-incoming", "-qmp", "-qmp-pretty", "-loadvm")

_OWN_SOCKET: Final = re.compile(rf"socket,id=([^,]+),fd=\d+,{LISTENING}")

_NOT_FOR_TWO: Final = (
    (re.compile(r"(^|[,:])(fd|fds|vhostfd)="), "a descriptor that it was given"),
    (re.compile(r"(^|,)hostfwd="), "a port of the host"),
    (
        re.compile(r"^unix:.*server|^(tcp|telnet|websocket):.*server|(^|,)server(=on)?(,|$)"),
        "a socket that it listens at",
    ),
)
"""What of an option can be of one VM only, and what that is."""


def recorded(arguments: Sequence[str]) -> list[str]:
    """Those of a VM with which another one can be started from its snapshot."""
    given = list(pairs(arguments))
    monitors = {
        _field(value, "chardev") for option, value in given if option == "-mon" and _field(value, "mode") == "control"
    }
    kept: list[str] = []
    for option, value in given:
        if option in _DROPPED or (option == "-object" and "memory-backend-" in value):
            continue
        if option in ("-mon", "-chardev") and _field(value, "chardev" if option == "-mon" else "id") in monitors:
            continue
        if option in ("-machine", "-M"):
            value = re.sub(r"(^|,)memory-backend=[^,]*", "", value).lstrip(",")
            if not value:
                continue
        own = _OWN_SOCKET.fullmatch(value) if option == "-chardev" else None
        if own:
            if own[1].startswith(OWN_ID_PREFIX):
                continue
            value = f"stdio,id={own[1]},signal=off"  # with_console has made it of that
        if option == "-serial" and value == f"chardev:{CONSOLE_ID}":
            value = "mon:stdio"
        kept += [option, value] if value else [option]
    return kept


def backend_of(arguments: Sequence[str]) -> str:
    """The id of the memory backend; empty if it cannot be seen."""
    return next(
        (
            _field(value, "id")
            for option, value in pairs(arguments)
            if option == "-object" and value.startswith("memory-backend-file")
        ),
        "",
    )


def check_for_another(arguments: Sequence[str]) -> None:
    """Raises InputError where a second VM with these arguments would take something away from the first."""
    for option, value in pairs(arguments):
        for pattern, what in _NOT_FOR_TWO:
            if pattern.search(value):
                raise InputError(
                    f"the VM was started with {option} {value}: {what} cannot be another VM's; write the new VM's "
                    "command line behind --"
                )


def with_console(arguments: Sequence[str], descriptor: int) -> list[str]:
    """With a listening socket in the place of the terminal, if they use one."""
    socket = f"fd={descriptor},{LISTENING}"
    changed: list[str] = []
    is_used = False
    for option, value in pairs(arguments):
        if option == "-serial" and value in ("stdio", "mon:stdio", f"chardev:{CONSOLE_ID}"):
            value, is_used = f"chardev:{CONSOLE_ID}", True
        elif option == "-monitor" and value == "stdio":
            value = "none"
        elif option == "-chardev" and value.startswith("stdio,"):
            value = f"socket,id={_field(value, 'id')},{socket}"
        changed += [option, value] if value else [option]
    return [*changed, "-chardev", f"socket,id={CONSOLE_ID},{socket}"] if is_used else changed


def has_console(arguments: Sequence[str]) -> bool:
    """Does the guest speak to the terminal?"""
    return with_console(arguments, 0) != list(arguments)


def filled_in(arguments: Sequence[str], values: dict[str, str]) -> list[str]:
    """With {KEY} replaced by its value; other braces are left, for QEMU takes JSON."""
    for key, value in values.items():
        arguments = [each.replace(f"{{{key}}}", value) for each in arguments]
    return list(arguments)


def pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each option with its value, empty if it has none. QEMU takes two dashes for one."""
    place = 0
    while place < len(arguments):
        option, place = arguments[place], place + 1
        has_value = place < len(arguments) and not arguments[place].startswith("-") and option.startswith("-")
        yield "-" + option.lstrip("-") if option.startswith("-") else option, arguments[place] if has_value else ""
        place += has_value


def _field(value: str, key: str) -> str:
    """KEY of `a,KEY=b`; empty if there is none. The first part may be without a key."""
    found = re.search(rf"(^|,){key}=([^,]*)", value)
    if found:
        return found[2]
    first = value.split(",")[0]
    return first if key == "chardev" and "=" not in first else ""
