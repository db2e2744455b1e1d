"""Builds the compiled core, blockstore/plane/: one extension module for each .pyx. All else is in pyproject.toml.

`scripts/setup` builds it in place, and pip builds it when it installs the package. The variable
BLOCKSTORE_SANITIZE=address,undefined (or thread) builds it with these sanitizers of GCC.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PLANE = Path("blockstore/plane")
HEADERS = {
    "lz4.h": "liblz4-dev",
    "xxhash.h": "libxxhash-dev",
    "zstd.h": "libzstd-dev",
    "Python.h": "python3-dev",
}
OPTIMISED = ["-O3", "-g1", "-fno-math-errno"]
SANITIZED = ["-O0", "-g1", "-fno-omit-frame-pointer", "-Wno-tsan"]
"""With -O1 the build takes five times as long, and the tests a third less. -Wno-tsan: GCC warns of each fence that
ThreadSanitizer does not see it."""

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
}


def refuse_what_is_missing() -> None:
    """Ends the build with one sentence if there is no compiler or no header, before the compiler fills screens."""
    compiler = os.environ.get("CC", "cc").split()
    if shutil.which(compiler[0]) is None:
        sys.exit(f"blockstore: there is no C compiler ({compiler[0]}); on Debian: apt-get install gcc libc6-dev")
    if not compiles(compiler, "stdlib.h"):
        sys.exit(f"blockstore: {compiler[0]} compiles no C here; on Debian: apt-get install gcc libc6-dev")
    for header, package in HEADERS.items():
        if not compiles(compiler, header):
            sys.exit(
                f"blockstore: the compiled core needs {header}, and {compiler[0]} cannot use it; "
                f"on Debian: apt-get install {package}"
            )


def compiles(compiler: list[str], header: str) -> bool:
    """Returns whether the compiler can use this header."""
    with tempfile.NamedTemporaryFile("w", suffix=".c") as source:
        source.write(f"#include <{header}>\n")
        source.flush()
        command = [*compiler, "-fsyntax-only", f"-I{sysconfig.get_path('include')}", source.name]
        return not subprocess.run(command, capture_output=True, check=False).returncode


def extensions() -> list[Extension]:
    """Returns one extension for each .pyx of the plane."""
    sanitizers = os.environ.get("BLOCKSTORE_SANITIZE", "")
    flags = [*SANITIZED, f"-fsanitize={sanitizers}"] if sanitizers else OPTIMISED
    return [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            include_dirs=[str(PLANE / "sync"), str(PLANE / "codec")],
            libraries=["lz4", "zstd"],
            extra_compile_args=["-std=c11", "-Wall", "-Wno-unused-function", *flags],
            extra_link_args=[f"-fsanitize={sanitizers}"] if sanitizers else [],
        )
        for source in sorted(PLANE.rglob("*.pyx"))
    ]


class BuildPlane(build_ext):
    """Translates the .pyx and compiles them."""

    def finalize_options(self) -> None:
        """Names the files that are to be compiled. Ends the build if that cannot be done here."""
        refuse_what_is_missing()
        self.parallel = int(self.parallel or os.cpu_count() or 1)
        self.distribution.ext_modules = cythonize(
            self.distribution.ext_modules,
            nthreads=self.parallel,
            build_dir="build/plane",
            compiler_directives=DIRECTIVES,
            quiet=True,
        )
        super().finalize_options()


if __name__ == "__main__":  # the processes that translate import this file where Python starts them anew
    setup(ext_modules=extensions(), cmdclass={"build_ext": BuildPlane})
