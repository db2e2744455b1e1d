"""Long-lived processes have in memory what they use, and not what libraries import for others."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from blockstore.daemon.supervise import lean
from tests.daemon.lab import run

LEFT_OUT = {
    *("ssl", "_ssl", "_hashlib", "importlib.metadata", "zipfile", "email", "numpy"),
    *("bz2", "idna", "ipaddress", "locale", "lzma", "tempfile", "xxhash", "zstandard"),
}

DAEMON = """
import json, sys
import blockstore.daemon.__main__
print(json.dumps(sorted(sys.modules)))
"""

STORE = """
import json, sys
import blockstore.daemon.__main__
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from blockstore.store.steps import run
store = Store(MemoryHome(), 64 << 20)
assert not store.remote.sources
volume = store.create_volume(1, domain_key=1)
run(store.write_steps(volume, 0, bytes(range(256)) * 64))
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
from blockstore.daemon.supervise import lean
try:
    with lean.StandIns():
        assert not hasattr(sys.modules["ssl"], "SSLContext")
        raise KeyError
except KeyError:
    print("ssl" in sys.modules, "_hashlib" in sys.modules)
"""


PROCESS = """
import sys
from blockstore.daemon.supervise import lean
with lean.StandIns(is_typing_plain=True):
    import MODULE
print(*sys.modules)
"""


def python(program: str) -> str:
    result = run([sys.executable, "-c", program])
    assert result.returncode == 0, result
    return result.stdout.strip()


def test_the_daemon_does_without() -> None:
    modules = set(json.loads(python(DAEMON)))
    assert {"trio", "pyfuse3", "sqlite3"} <= modules
    assert not modules & LEFT_OUT


def test_an_open_store_does_without() -> None:
    """The mount asks for the `sources` of its store when it starts."""
    modules = set(json.loads(python(STORE)))
    assert "blockstore.store.remote.arrivals" in modules and not modules & LEFT_OUT


def test_whoever_wants_them_afterwards_has_them() -> None:
    assert python(AFTERWARDS) == "fine"


def test_nothing_stands_in_for_longer() -> None:
    assert python(INTERRUPTED) == "False False"


def test_what_is_there_already_stays() -> None:
    program = (
        "import ssl, sys; from blockstore.daemon.supervise import lean\n"
        "with lean.StandIns(): print(sys.modules['ssl'] is ssl)"
    )
    assert python(f"{program}\nassert sys.modules['ssl'] is ssl") == "True"


def test_records_are_cross_checked_in_a_process_that_has_begun_without_the_libraries() -> None:
    program = """
import sys
import blockstore.daemon.__main__
from blockstore.plane.codec import codec
from blockstore.store.checks import cross_check
print(*(name in sys.modules for name in ("xxhash", "zstandard")))
block = bytes(range(256)) * 16
assert cross_check.digest(block, 7) == codec.digest(block, 7)
try:
    cross_check.decode(b"no frame", cross_check.DENSE, b"")
except cross_check.CrossCheckError:
    print(*(name in sys.modules for name in ("xxhash", "zstandard")))
"""
    assert python(program) == "False False\nTrue True"


def test_what_others_import_is_there_when_it_is_asked_for() -> None:
    program = """
import sys
from blockstore.daemon.supervise import lean
with lean.StandIns():
    from urllib import parse
print("ipaddress" in sys.modules, parse.urlsplit("http://[::1]/").hostname, "ipaddress" in sys.modules)
import ipaddress
assert ipaddress.ip_address("::1").is_loopback and parse.ipaddress.ip_address is ipaddress.ip_address
"""
    assert python(program) == "False ::1 True"


@pytest.mark.parametrize(
    ("module", "left_out"),
    [
        (
            "blockstore.daemon.supervise.supervisor",
            {"typing", "pathlib", "json", "re", "enum", "collections", "signal", "socket"},
        ),
        ("blockstore.vm.control.controller", LEFT_OUT | {"shutil", "hashlib", "subprocess", "typing"}),
        ("blockstore.daemon.host.unmount", LEFT_OUT | {"typing"}),
    ],
)
def test_the_small_processes_need_no_library(module: str, left_out: set[str]) -> None:
    """And so they run with `-S`. The process is the one that is started; its `main` is not."""
    with_names = PROCESS.replace("MODULE", module)
    result = run([sys.executable, "-S", "-c", with_names], PYTHONPATH=lean.environment()["PYTHONPATH"])
    assert result.returncode == 0, result
    names = set(result.stdout.split())
    assert module in names
    assert not (left_out | {"trio", "numpy", "click", "logging", "dataclasses", "inspect", "runpy"}) & names


def test_a_lean_process_calls_main_with_its_arguments(tmp_path: Path) -> None:
    (tmp_path / "said.py").write_text("def main(arguments):\n    print(arguments)\n    return 3\n")
    place = lean.environment()["PYTHONPATH"]
    result = run(lean.command("said", "one", "two words"), PYTHONPATH=f"{place}:{tmp_path}")
    assert result.returncode == 3 and result.stdout == "['one', 'two words']\n", result


def test_named_tuples_are_what_they_are_with_the_module_typing() -> None:
    program = """
import sys
from blockstore.daemon.supervise import lean
with lean.StandIns(is_typing_plain=IS_PLAIN):
    from blockstore.daemon.control.attachments import Attachment
    from blockstore.daemon.control.bill import Bill, Process
print("plain" if "blockstore.daemon.supervise.plain_typing" in sys.modules else "typing", file=sys.stderr)
bill = Bill({"daemon": Process(1, memory=2, processor_s=3.0)}, 4)
print(bill, bill.memory, Bill._fields, Bill.__module__, Process(1, 2, 3.0)._asdict(), Process(1, 2, 3.0) < (1, 3))
print(Attachment._fields, Attachment._field_defaults, Attachment.__name__, isinstance(bill, tuple))
"""
    outcomes = [
        run(
            [sys.executable, "-S", "-c", program.replace("IS_PLAIN", is_plain)],
            PYTHONPATH=lean.environment()["PYTHONPATH"],
        )
        for is_plain in ("True", "False")
    ]
    assert [outcome.stderr.strip() for outcome in outcomes] == ["plain", "typing"]
    assert outcomes[0].stdout == outcomes[1].stdout and outcomes[0].returncode == outcomes[1].returncode == 0
