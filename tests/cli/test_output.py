"""What is printed: names do nothing to a terminal, in no command; JSON is what strict parsers take."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from blockstore.cli import output
from blockstore.cli.verify import _print
from blockstore.daemon import control
from tests.daemon.lab import Lab, blockstore, end, noisy, put, said, spawn

HOSTILE = "\x1b]0;x\x07\n\u202e"
SHOWN = "\\x1b]0;x\\x07\\x0a\\u202e"
BROKEN = b"\xff\xfe"

HOLDING = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
print("open", flush=True)
sys.stdin.read()
"""


def is_clean(result: subprocess.CompletedProcess[str], code: int, *shown: str) -> None:
    """It ended so, and printed these words, and nothing that a terminal obeys."""
    text = result.stdout + result.stderr
    assert result.returncode == code and "Traceback" not in text, result
    assert text.replace("\n", "").isprintable(), repr(text)
    for word in shown:
        assert word in text, result


@pytest.mark.mount
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
    page = blockstore("report", mount, "-o", "-")
    assert SHOWN in page.stdout and "\x1b" not in page.stdout and "\u202e" not in page.stdout
    control.ask(mounted.state, {"do": "write_errors", "found": [[HOSTILE, 4096, "why\x1b"]]})
    assert "(why\\x1b)" in mounted.log() and "\x1b" not in mounted.log()
    process = spawn(HOLDING, str(path))
    try:
        assert said(process) == "open"
        is_clean(mounted.umount(), 3, SHOWN)
    finally:
        end(process.pid)
        process.wait(10)


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
