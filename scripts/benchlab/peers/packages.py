"""Debian packages of the peers: installed when a program is missing and we may, as scripts/setup does for the rest."""

from __future__ import annotations

import os
import shutil
from typing import Final

from benchlab import processes
from benchlab.errors import BenchError

_INSTALL_S: Final = 180.0
_UPDATE_S: Final = 60.0
_QUIETLY: Final = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", "DPkg::Lock::Timeout=30")


def need(program: str, package: str) -> None:
    """Have `program` at hand, by installing `package` if need be. Raises BenchError with the reason if that fails."""
    if shutil.which(program):
        return
    if os.geteuid():
        raise BenchError(f"there is no {program}, and only root can install the package {package}")
    if not shutil.which("apt-get"):
        raise BenchError(f"there is no {program}, and no apt-get to install it with")
    try:
        _install(package)
    except BenchError as error:
        raise BenchError(f"there is no {program}, and the package {package} could not be installed: {error}") from error
    if not shutil.which(program):
        raise BenchError(f"the package {package} is installed, but has no {program}")


def _install(package: str) -> None:
    """With the lists of packages that are there, and once more with new ones."""
    command = [*_QUIETLY, "install", "-y", "--no-install-recommends", package]
    try:
        processes.run(command, processes.nothing_to_abort, _INSTALL_S)
    except BenchError:
        processes.run([*_QUIETLY, "update"], processes.nothing_to_abort, _UPDATE_S)
        processes.run(command, processes.nothing_to_abort, _INSTALL_S)
