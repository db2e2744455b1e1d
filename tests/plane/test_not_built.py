"""Where the compiled core is not built, or for another machine: one sentence that names the command that builds it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from suitelab.steps import PROJECT

import blockstore

pytestmark = pytest.mark.long

PACKAGE = Path(blockstore.__file__).parent
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
MACHINE = 18
"""Offset of e_machine, two bytes of an ELF header (elf(5))."""
OTHER_MACHINE = b"\xb7\x00"
"""EM_AARCH64."""


def absent(module: Path) -> None:
    module.unlink()


def truncated(module: Path) -> None:
    module.write_bytes(module.read_bytes()[:40])


def foreign(module: Path) -> None:
    content = bytearray(module.read_bytes())
    content[MACHINE : MACHINE + 2] = OTHER_MACHINE
    module.write_bytes(content)


def of_other_types(module: Path) -> None:
    """Another module in its place, as after a build that was interrupted."""
    shutil.copyfile(module.with_name(module.name.replace("codec", "features")), module)


SPOILT = (absent, truncated, foreign, of_other_types)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with a copy of the package as it would be installed."""
    shutil.copytree(PACKAGE, tmp_path / "blockstore", ignore=shutil.ignore_patterns("__pycache__", "*.py[xd]"))
    return tmp_path


def modules(copy: Path, name: str = "*") -> list[Path]:
    found = sorted((copy / "blockstore" / "plane").rglob(f"{name}.*.so"))
    assert found
    return found


def run(copy: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with the copy in the place of the package."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=copy,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_whole_copy_works(copy: Path) -> None:
    done = run(copy, "-c", "import blockstore.plane.codec.codec as codec; print(codec.__file__, codec.digest(b'', 0))")
    assert done.stdout.startswith(str(copy)) and not done.stderr


@pytest.mark.parametrize("spoil", SPOILT)
def test_the_command_line_says_how_to_build_it(copy: Path, spoil: Callable[[Path], None]) -> None:
    spoil(*modules(copy, "codec"))
    image = copy / "some.ram"
    image.write_bytes(bytes(8192))
    mountpoint, state = copy / "mountpoint", copy / "state"
    mountpoint.mkdir()
    for arguments in (("analyze", str(image)), ("mount", str(mountpoint), "--state", str(state))):
        done = run(copy, "-m", "blockstore", *arguments)
        assert done.returncode == 1 and not done.stdout
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(
            f"blockstore: the compiled core in {copy}/blockstore/plane is not built, or not for Python {PYTHON} on"
        )
        assert done.stderr.endswith("-m pip install --force-reinstall --no-cache-dir .\n")
    assert not state.exists()
    assert run(copy, "-m", "blockstore", "--help").returncode == 0


def test_a_daemon_says_it_too_and_in_a_checkout_names_the_script(copy: Path) -> None:
    for module in modules(copy):
        module.unlink()
    (copy / "scripts").mkdir()
    (copy / "scripts" / "setup").touch()
    done = run(copy, "-m", "blockstore.daemon", "--check", "{}")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("blockstore: the compiled core") and done.stderr.endswith(
        f"build it: {copy}/scripts/setup\n"
    )


def build(tmp_path: Path, compiler: str) -> subprocess.CompletedProcess[str]:
    """setup.py with this compiler."""
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", f"--build-lib={tmp_path}", f"--build-temp={tmp_path}"],
        env={**os.environ, "CC": compiler},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def compiler_of(folder: Path, script: str) -> Path:
    """A shell script in the place of a compiler."""
    compiler = folder / "cc"
    compiler.write_text(f"#!/bin/sh\n{script}")
    compiler.chmod(0o755)
    return compiler


def test_a_build_without_a_compiler_says_so(tmp_path: Path) -> None:
    done = build(tmp_path, "/nonexistent/cc")
    assert done.returncode == 1
    assert done.stderr == (
        "blockstore: there is no C compiler (/nonexistent/cc); on Debian: apt-get install gcc libc6-dev\n"
    )


def test_a_build_without_a_header_names_its_package(tmp_path: Path) -> None:
    compiler = compiler_of(tmp_path, 'for last; do :; done\ngrep -q "zstd.h" "$last" && exit 1\nexec cc "$@"\n')
    done = build(tmp_path, str(compiler))
    assert done.returncode == 1
    assert done.stderr == (
        f"blockstore: the compiled core needs zstd.h, and {compiler} cannot use it; "
        "on Debian: apt-get install libzstd-dev\n"
    )


def test_a_build_with_a_compiler_that_does_not_work_blames_no_header(tmp_path: Path) -> None:
    compiler = compiler_of(tmp_path, "exit 1\n")
    done = build(tmp_path, str(compiler))
    assert done.returncode == 1
    assert done.stderr == f"blockstore: {compiler} compiles no C here; on Debian: apt-get install gcc libc6-dev\n"
