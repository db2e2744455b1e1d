"""Where a VM's command line says its disks, and how it can say others: pure. (qemu(1): -drive, -blockdev, -hda)"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from blockstore.vm.qemu.recorded_arguments import pairs, recorded
from blockstore.vm.qemu.running import Running
from blockstore.vm.snapshot.overlays import FORMAT


class Layer(NamedTuple):
    """A file that a disk is made of."""

    path: Path
    format: str


class Disk(NamedTuple):
    """A disk as its VM has it: its layers, from the top, its name in QEMU's block layer, and its size as the guest sees
    it."""

    layers: list[Layer]
    node: str
    size_bytes: int


def for_others(vm: Running, disks: Sequence[Disk]) -> list[str]:
    """What another VM with this one's memory is started with, on overlays over these `disks`."""
    return with_placeholders(recorded(vm.command), Path(vm.folder), disks)


def with_placeholders(arguments: Sequence[str], folder: Path, disks: Sequence[Disk]) -> list[str]:
    """With {disk1} in the place of the first one, an overlay, and so on. The command line was written in `folder`, and
    may say a file that is under overlays by now. A disk that cannot be found in it, or cannot be exchanged for an
    overlay, is left as it is."""
    changed = list(pairs(arguments))
    for number, disk in enumerate(disks, 1):
        for place, layer in ((place, layer) for layer in disk.layers for place in range(len(changed))):
            replaced = _replaced(changed[place], folder, layer, f"{{disk{number}}}")
            if replaced is not None:
                changed[place] = replaced
                break
    return [word for option, value in changed for word in ((option, value) if value else (option,))]


def _replaced(pair: tuple[str, str], folder: Path, layer: Layer, placeholder: str) -> tuple[str, str] | None:
    (option, value), path = pair, layer.path
    if option == "-drive":
        fields = _fields(value)
        if not any(field.startswith("file=") and _is(folder, field[5:], path) for field in fields):
            return None
        kept = [each for each in fields if not each.startswith(("file=", "format=", "driver="))]
        return option, _joined([f"file={placeholder}", f"format={FORMAT}", *kept])
    if option == "-blockdev":
        if layer.format != FORMAT:  # which may be said by another option
            return None
        if value.startswith("{"):
            said = f'"filename":{json.dumps(str(path))}'
            return (option, value.replace(said, f'"filename":"{placeholder}"')) if said in value else None
        fields = _fields(value)
        for place, field in enumerate(fields):
            key, _, said = field.partition("=")
            if key in ("filename", "file.filename") and _is(folder, said, path):
                return option, _joined([*fields[:place], f"{key}={placeholder}", *fields[place + 1 :]])
        return None
    if value and _is(folder, value, path):
        return option, placeholder
    return (placeholder, value) if not option.startswith("-") and _is(folder, option, path) else None


def _is(folder: Path, said: str, path: Path) -> bool:
    return folder / said == path


def _fields(value: str) -> list[str]:
    """A comma in an option is written twice."""
    return [field.replace("\0", ",") for field in value.replace(",,", "\0").split(",")]


def _joined(fields: Sequence[str]) -> str:
    return ",".join(field.replace(",", ",,") for field in fields)
