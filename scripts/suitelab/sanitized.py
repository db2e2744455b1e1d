"""Runs tests over a compiled core that sanitizers watch: AddressSanitizer and UndefinedBehaviorSanitizer, or
ThreadSanitizer.

    python -m suitelab.sanitized tests/plane [ARGUMENT OF PYTEST...]
    python -m suitelab.sanitized --threads [TEST OR ARGUMENT OF PYTEST...]

Each core is built in a copy of the project under build/, so that nothing else meets it, and built anew there only where
its sources have changed. An error of the first two ends the test's process; a race of threads is printed, and the
process goes on and ends with another exit code. Either fails the run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from suitelab.steps import PROJECT
from suitelab.suites import PYTEST, TOGETHER, WITHOUT_MOUNT

COPIED: Final = ("blockstore", "tests", "scripts", "setup.py", "pyproject.toml", "README.md", "build/plane")
"""The last one has what Cython has made of the core: 20 s of work, and the same for each compiler's options."""

BUILD_S: Final = 1800.0
"""Two minutes where nothing else runs; a build that hangs is ended."""


@dataclass(frozen=True)
class Build:
    """A core that sanitizers watch."""

    copy: Path
    sanitizers: str
    """As GCC calls them."""

    library: str
    """Which must be loaded before all else."""

    options: Mapping[str, str]
    """Of the sanitizers: variables of the environment."""

    pytest: tuple[str, ...]


MEMORY: Final = Build(
    PROJECT / "build" / "sanitized",
    "address,undefined",
    "libasan.so",
    {
        "ASAN_OPTIONS": "detect_leaks=0",  # the interpreter does not free what it has at its end
        "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
    },
    TOGETHER,
)
THREADS: Final = Build(
    PROJECT / "build" / "sanitized_threads",
    "thread",
    "libtsan.so",
    # Of the interpreter and of libraries, not instrumented, the locks count, and not what they read and write.
    {"TSAN_OPTIONS": "halt_on_error=0:ignore_noninstrumented_modules=1:history_size=4"},
    ("--capture=no",),  # pytest would hide what is printed of a race in a test that passes
)
THREADED: Final = tuple(
    f"tests/plane/{name}.py"
    for name in ("serve/test_races", "serve/test_encoders", "blocks/test_commit", "sync/test_lock", "sync/test_epochs")
)
"""Tests of several threads, for ThreadSanitizer."""


def bring_up_to_date(copy: Path) -> None:
    """Makes the copy what the project is now. What is the same keeps its time, by which the build knows it."""
    wanted = {path.relative_to(PROJECT) for name in COPIED for path in _sources(PROJECT / name)}
    for stale in {path.relative_to(copy) for name in COPIED for path in _sources(copy / name)} - wanted:
        (copy / stale).unlink()
    for path in wanted:
        source, target = PROJECT / path, copy / path
        if not target.exists() or target.stat().st_mtime_ns != source.stat().st_mtime_ns:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)


def build(core: Build) -> bool:
    """Builds the core in its copy. Returns whether that could be done; why not stands on stderr then."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    environment = {**os.environ, "BLOCKSTORE_SANITIZE": core.sanitizers}
    return subprocess.run(command, cwd=core.copy, env=environment, timeout=BUILD_S, check=False).returncode == 0


def runtimes(library: str) -> str:
    """Returns what must be loaded before all else: the sanitizer, and the C++ library whose exceptions it looks for."""
    compiler = os.environ.get("CC", "cc").split()
    command = [*compiler, f"-print-file-name={library}"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not Path(found).is_absolute():
        sys.exit(f"sanitized: there is no {library} for this compiler; on Debian it comes with gcc")
    return f"{found} libstdc++.so.6"


def run(core: Build, arguments: Sequence[str]) -> int:
    """Runs pytest with these arguments over this core. Returns the exit code."""
    bring_up_to_date(core.copy)
    preloaded = runtimes(core.library)
    if not build(core):
        return 1
    command = [*PYTEST, *core.pytest, "--quiet", "-m", WITHOUT_MOUNT, *arguments]
    environment = {
        **os.environ,
        **core.options,
        "PYTHONMALLOC": "malloc",  # or a sanitizer would not know where one object ends
        "PYTHONPATH": f"{core.copy}:{core.copy / 'scripts'}",
        "LD_PRELOAD": preloaded,
    }
    return subprocess.run(command, cwd=core.copy, env=environment, check=False).returncode


def main(arguments: Sequence[str]) -> int:
    """Runs pytest over the core that the first argument says. Returns the exit code."""
    if arguments[:1] == ["--threads"]:
        return run(THREADS, arguments[1:] or THREADED)
    return run(MEMORY, arguments)


def _sources(place: Path) -> Iterator[Path]:
    """All files but what is built."""
    if place.is_file():
        yield place
        return
    for path in place.rglob("*"):
        if path.is_file() and path.suffix not in (".so", ".pyc"):
            yield path


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
