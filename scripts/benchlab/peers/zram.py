"""zram0 as a raw block device with LZ4, borrowed: nobody else's is touched, and afterwards it is as it was."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from benchlab.errors import BenchError

ALGORITHM: Final = "lz4"

_SETTINGS: Final = Path("/sys/block/zram0")
_SWAPS: Final = Path("/proc/swaps")
_RESET_S: Final = 15.0
"""A client that was just killed may hold the device open a little longer, and udev looks at it now and then."""


class Zram:
    """`with` resets the device and puts its algorithm back, whatever happened. Raises BenchError if it is in use."""

    def __init__(self, size_bytes: int, settings: Path = _SETTINGS, swaps: Path = _SWAPS) -> None:
        self.path = Path("/dev") / settings.name
        self._size_bytes = size_bytes
        self._settings = settings
        self._swaps = swaps
        self._algorithm_before = ""

    def __enter__(self) -> Self:
        self._refuse_if_in_use()
        names = self._read("comp_algorithm").split()
        if ALGORITHM not in [name.strip("[]") for name in names]:
            raise BenchError(f"{self.path} knows no {ALGORITHM}")
        self._algorithm_before = next((name.strip("[]") for name in names if name.startswith("[")), names[0])
        self._write("comp_algorithm", ALGORITHM)
        try:
            self._write("disksize", str(self._size_bytes))
        except BenchError:
            # Somebody else was faster, and the device is theirs: no reset.
            with contextlib.suppress(BenchError):
                self._write("comp_algorithm", self._algorithm_before)
            raise
        except BaseException:
            self._undo()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._undo()
        except BenchError as failure:
            if error is None:
                raise
            print(f"bench: {failure}", file=sys.stderr)  # the error under way says more

    def _refuse_if_in_use(self) -> None:
        if not self._settings.is_dir():
            raise BenchError(f"this kernel has no {self.path.name}")
        if not os.access(self._settings / "disksize", os.W_OK):
            raise BenchError(f"only root may set {self.path.name} up")
        in_swap = any(line.split()[0] == str(self.path) for line in self._swaps.read_text().splitlines() if line)
        if in_swap or self._read("disksize") != "0":
            raise BenchError(f"{self.path} is in use; if it is not: echo 1 > {self._settings / 'reset'}")

    def _undo(self) -> None:
        end_s = time.monotonic() + _RESET_S
        while True:
            try:
                self._write("reset", "1")
                break
            except BenchError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.1)
        self._write("comp_algorithm", self._algorithm_before)

    def _read(self, name: str) -> str:
        return (self._settings / name).read_text().strip()

    def _write(self, name: str, value: str) -> None:
        try:
            (self._settings / name).write_text(value)
        except OSError as error:
            raise BenchError(f"{name} of {self.path.name} cannot be set to {value}: {error.strerror}") from error
