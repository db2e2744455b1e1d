"""Long-lived processes have in memory what they use, and not what libraries import for others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.daemon.lab import run

PLACE = Path(__file__).resolve().parents[2]

LEFT_OUT = {"ssl", "_ssl", "_hashlib", "importlib.metadata", "zipfile", "email", "numpy.random"}

DAEMON = """
import json, sys
import blockstore.daemon.__main__
print(json.dumps(sorted(sys.modules)))
"""

AFTERWARDS = """
import blockstore.daemon.__main__
import hashlib, importlib.metadata, ssl, trio
assert ssl.create_default_context().check_hostname
assert importlib.metadata.version("trio") == trio.__version__
assert hashlib.blake2b(b"", digest_size=4).hexdigest() == "1271cf25"
try:
    importlib.metadata.version("no such package")
except importlib.metadata.PackageNotFoundError:
    print("fine")
"""

INTERRUPTED = """
import sys
from blockstore.daemon import lean
try:
    with lean.stand_ins():
        assert not hasattr(sys.modules["ssl"], "SSLContext")
        raise KeyError
except KeyError:
    print("ssl" in sys.modules, "_hashlib" in sys.modules)
"""


def python(program: str) -> str:
    result = run([sys.executable, "-c", program])
    assert result.returncode == 0, result
    return result.stdout.strip()


def test_the_daemon_does_without() -> None:
    modules = set(json.loads(python(DAEMON)))
    assert {"trio", "pyfuse3", "numpy", "sqlite3"} <= modules
    assert not modules & LEFT_OUT


def test_whoever_wants_them_afterwards_has_them() -> None:
    assert python(AFTERWARDS) == "fine"


def test_nothing_stands_in_for_longer() -> None:
    assert python(INTERRUPTED) == "False False"


def test_what_is_there_already_stays() -> None:
    program = (
        "import ssl, sys; from blockstore.daemon import lean\nwith lean.stand_ins(): print(sys.modules['ssl'] is ssl)"
    )
    assert python(f"{program}\nassert sys.modules['ssl'] is ssl") == "True"


@pytest.mark.parametrize("module", ("blockstore.daemon.supervisor", "blockstore.vm.controller"))
def test_the_small_processes_need_no_library(module: str) -> None:
    """And so they run with `-S`."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    result = run([sys.executable, "-S", "-c", f"import sys; sys.path.insert(0, {str(PLACE)!r}); {program}"])
    assert result.returncode == 0, result
    assert not {"trio", "numpy", "click", "logging", "dataclasses", "inspect"} & set(json.loads(result.stdout))
