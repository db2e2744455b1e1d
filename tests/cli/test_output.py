"""What is printed: names do nothing to a terminal, in no command; JSON is what strict parsers take; any locale does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.cli import output, streams
from blockstore.cli.mounts.verify import _print
from blockstore.daemon.control import client
from tests.daemon.lab import Lab, Mounted, blockstore, end, noisy, one_line, put, run, said, spawn

HOSTILE = "\x1b]0;x\x07\n\u202e"
SHOWN = "\\x1b]0;x\\x07\\x0a\\u202e"
BROKEN = b"\xff\xfe"

HOLDING = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
print("open", flush=True)
sys.stdin.read()
"""

LOCALES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "latin-1": {"LC_ALL": "en_US.ISO-8859-1"},
}


def is_clean(result: subprocess.CompletedProcess[str], code: int, *shown: str) -> None:
    """It ended so, and printed these words, and nothing that a terminal obeys."""
    text = result.stdout + result.stderr
    assert result.returncode == code and "Traceback" not in text, result
    assert text.replace("\n", "").isprintable(), repr(text)
    for word in shown:
        assert word in text, result


@pytest.mark.mount
@pytest.mark.logs("write-back of pages of .* had failed; they cannot be written again")
def test_hostile_names_in_every_command(lab: Lab) -> None:
    mounted = lab.mount()
    path = mounted.path / HOSTILE
    put(path, noisy(1 << 16, 1))
    put(mounted.path / f".{HOSTILE}.snapshot", b"none")
    put(Path(os.fsdecode(os.fsencode(mounted.path) + b"/" + BROKEN)), noisy(1 << 16, 2))
    mount = str(mounted.path)
    is_clean(blockstore("status", mount), 0, SHOWN, "\\xff\\xfe")
    is_clean(blockstore("top", mount, "--count", "1"), 0, SHOWN)
    is_clean(blockstore("evict", mount), 0, SHOWN, "\\xff\\xfe")
    is_clean(blockstore("snapshots", "--mount", mount), 0, f".{SHOWN}.snapshot is damaged")
    is_clean(blockstore("verify", mount), 0)
    is_clean(blockstore("verify", mount + HOSTILE), 1, SHOWN)
    is_clean(blockstore("evict", mount, HOSTILE + "no"), 2)
    is_clean(blockstore("snapshot", HOSTILE, "base", "--mount", mount), 2)
    is_clean(blockstore("fork", HOSTILE, "--mount", mount), 2)
    is_clean(blockstore("snapshots", "show", HOSTILE, "--mount", mount), 4, SHOWN)
    long = "a" * 300
    one_line(blockstore("snapshots", "delete", f"{long}/x", "--mount", mount), 1, "File name too long")
    page = blockstore("report", mount, "-o", "-")
    assert SHOWN in page.stdout and "\x1b" not in page.stdout and "\u202e" not in page.stdout
    client.ask(mounted.state, {"do": "write_errors", "found": [[HOSTILE, 4096, "why\x1b"]]})
    assert "(why\\x1b)" in mounted.log() and "\x1b" not in mounted.log()
    process = spawn(HOLDING, str(path))
    try:
        assert said(process) == "open"
        is_clean(mounted.umount(), 3, SHOWN)
    finally:
        end(process.pid)
        process.wait(60)


def test_findings_of_verify(capsys: pytest.CaptureFixture[str]) -> None:
    finding = {"volume": 7, "text": f"{HOSTILE} is damaged", "repaired": False}
    counts = dict.fromkeys(("volumes", "blocks", "rows", "record_bytes"), 1)
    _print({"names": {"7": HOSTILE}, "findings": [finding], "found": 1, "repaired": 0, **counts})
    assert capsys.readouterr().out.splitlines()[0] == f"{SHOWN}: {SHOWN} is damaged"


def test_json_for_strict_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    names = [os.fsdecode(BROKEN), "\\xff\\xfe", HOSTILE, "größe"]
    output.print_json({name: {"names": [name], "other": (None, 1, 0.5, True)} for name in names})
    text = capsys.readouterr().out
    assert text.isascii() and "\\udc" not in text
    keys = list(json.loads(text))
    assert keys == ["\\xff\\xfe'", "\\xff\\xfe", HOSTILE, "größe"]
    assert json.loads(text)[keys[0]] == {"names": ["\\xff\\xfe"], "other": [None, 1, 0.5, True]}


@pytest.fixture(scope="module")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with a locale whose encoding is not UTF-8."""
    place = tmp_path_factory.mktemp("locales")
    command = ["localedef", "-i", "en_US", "-f", "ISO-8859-1", str(place / "en_US.ISO-8859-1")]
    if shutil.which("localedef") is None or run(command).returncode:
        pytest.skip("no locale can be made here")
    yield str(place)


def within(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-m", "blockstore", *arguments], 60.0, **environment)


def names_told(mounted: Mounted, environment: dict[str, str]) -> None:
    result = within(environment, "status", str(mounted.path), "--json")
    assert set(json.loads(result.stdout)["volumes"]) == {"größe", "漢字", "\\xff\\xfe"}, result
    for command in (["status"], ["top", "--count", "1"], ["evict"]):
        result = within(environment, command[0], str(mounted.path), *command[1:])
        assert result.returncode == 0 and not result.stderr, result
        assert all(name in result.stdout for name in ("\\xff\\xfe", "\\u6f22\\u5b57", "gr\udcf6\udcdfe")) or (
            all(name in result.stdout for name in ("\\xff\\xfe", "漢字", "größe")) and "latin" not in str(environment)
        ), result
    one_line(within(environment, "evict", str(mounted.path), "漢"), 2, "has no file")
    assert within(environment, "evict", str(mounted.path), "漢字").returncode == 0
    assert within(environment, "evict", str(mounted.path), os.fsdecode(BROKEN)).returncode == 0


@pytest.mark.mount
def test_locales_that_are_not_utf8(lab: Lab, locales: str) -> None:
    """A daemon that was started in either world serves the other one, also at a path that is not ASCII."""
    for where in LOCALES.values():
        here = {**where, "LOCPATH": locales}
        mounted = Mounted(lab.mountpoint("größe"), lab.path / "größe.state")
        command = ["mount", str(mounted.path), "--state", str(mounted.state), "--pool-limit", "64M"]
        assert within(here, *command).returncode == 0
        for name in ("größe".encode(), "漢字".encode(), BROKEN):
            put(Path(os.fsdecode(os.fsencode(mounted.path) + b"/" + name)), b"data")
        for environment in ({}, here):
            names_told(mounted, environment)
        assert mounted.umount("--discard").returncode == 0


@pytest.mark.parametrize("name", LOCALES)
def test_an_encoding_that_lacks_letters(name: str, locales: str) -> None:
    script = "from blockstore.cli import output\nfrom blockstore.cli.streams import *\n"
    script += "insist_on_utf8(); print_in_the_locale(); output.say('\\u2264 \\u6f22 \\xf6')"
    environment = {**os.environ, **LOCALES[name], "LOCPATH": locales}
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, env=environment, timeout=60)
    assert not said.stderr and said.stdout in ("≤ 漢 ö\n".encode(), b"< \\u6f22 \xf6\n")
    assert (said.stdout == b"< \\u6f22 \xf6\n") == (name == "latin-1")


def test_what_is_drawn_stays_as_wide() -> None:
    """A screen of columns: what an encoding lacks must not move what stands at its right."""
    assert "│漢≤█é▁".encode("latin-1", streams.LACKING_CELLS) == b"???<#\xe9_"
    assert "漢≤█é".encode("ascii", streams.LACKING) == b"\\u6f22<#\\xe9"
