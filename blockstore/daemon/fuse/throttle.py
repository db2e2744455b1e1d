"""Lifts the kernel's limit on the dirty pages of a mount (docs/decisions.md, "Dirty throttling").

FUSE mounts start with `max_ratio` 1 and `strict_limit` 1: a process that dirties more than a hundredth of the
memory is stopped until it was written back. A VM is such a process, and a stopped vCPU is a hung guest.
"""

from __future__ import annotations

from pathlib import Path

_SETTINGS = (("strict_limit", "0"), ("max_ratio", "100"))


def lift(device: str) -> str | None:
    """Set the knobs of the mount with this MAJOR:MINOR. None, or the sentence that says why they could not be set."""
    folder = Path("/sys/class/bdi") / device
    for name, value in _SETTINGS:
        try:
            (folder / name).write_text(value)
        except FileNotFoundError:
            if name == "strict_limit":  # Linux before 6.2
                continue
            return _sentence(folder, "it is not there")
        except OSError as error:
            return _sentence(folder, error.strerror or "it cannot be written")
    return None


def _sentence(folder: Path, why: str) -> str:
    return (
        f"the kernel's write-back limit of this mount stays on ({folder}/max_ratio: {why}): "
        "a VM that writes much memory at once may pause for up to half a second; mount as root to lift it"
    )
