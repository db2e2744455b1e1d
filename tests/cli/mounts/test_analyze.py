"""`blockstore analyze`, through click and as a process: output, exit codes, never a traceback."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from blockstore.cli.main import COMMANDS, cli
from blockstore.cli.mounts.analyze import analyze
from blockstore.cli.views.savings_table import print_savings
from tests.analysis.test_analyze import MIXED, image
from tests.cli.words import CLASSES
from tests.store.material import near, noise, text

WORDS = (
    "logical",
    "touched",
    *CLASSES,
    "stored",
    "tables",
    "footprint",
)


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "blockstore", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=60,
    )


def on_terminal(*arguments: str, columns: int, **environment: str) -> str:
    """What the command shows on a terminal of that width."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "blockstore", *arguments],
        stdout=follower,
        stderr=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), **environment},
    )
    os.close(follower)
    output = bytearray()
    try:
        while piece := os.read(leader, 65536):
            output += piece
    except OSError:  # EIO: the child has gone
        pass
    os.close(leader)
    assert child.wait() == 0
    return output.decode()


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    second = [text(1), noise(1), near(text(9), 4)]
    return [image(tmp_path, "web.ram", MIXED), image(tmp_path, "db.ram", second)]


def test_json(images: list[str]) -> None:
    result = CliRunner().invoke(cli, ["analyze", "--json", *images])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert set(report) == {"volumes", "total"} and list(report["volumes"]) == ["web.ram", "db.ram"]
    total = report["total"]
    assert {*WORDS, "blocks", "bytes", "ksm_bytes", "zram_bytes", "stored_no_patch", "saved"} <= total.keys()
    assert total["touched"] == total["bytes"] == 4096 * total["blocks"]
    for word in (*WORDS, "blocks", "bytes"):
        assert sum(volume[word] for volume in report["volumes"].values()) == total[word]


def test_tables(images: list[str]) -> None:
    output = CliRunner().invoke(cli, ["analyze", "--verify", *images]).output
    for word in ("web.ram", "db.ram", "total", "(KSM)", "zram", "blockstore without patches", *WORDS):
        assert word in output
    assert "Verified" in output and "\x1b" not in output and "…" not in output


def test_cold(images: list[str]) -> None:
    result = CliRunner().invoke(cli, ["analyze", "--cold", "--json", *images])
    total = json.loads(result.stdout)["total"]
    assert 0 < total["stored_cold"] < total["stored"]
    output = CliRunner().invoke(cli, ["analyze", "--cold", *images]).output
    assert "all of it cold" in output
    for step in total["steps"]:
        assert step["name"] in output


def test_no_patch(images: list[str]) -> None:
    result = CliRunner().invoke(cli, ["analyze", "--no-patch", "--json", *images])
    total = json.loads(result.stdout)["total"]
    assert total["patched"] == 0 and total["stored"] == total["stored_no_patch"]


def test_long_and_hostile_names_are_not_cut_and_do_no_harm(tmp_path: Path) -> None:
    long, hostile = "v" * 200, "[red]\x1b[2J:smile:"
    output = process("analyze", *(image(tmp_path, name, [text(1)]) for name in (long, hostile))).stdout
    assert long in output and "[red]" in output and ":smile:" in output and "\x1b" not in output


def test_name_that_is_not_utf8(tmp_path: Path) -> None:
    path = image(tmp_path, os.fsdecode(b"vm-\xff"), [text(1)])
    assert "vm-\\xff" in process("analyze", path).stdout
    assert "vm-\\xff" in json.loads(process("analyze", "--json", path).stdout)["volumes"]


def test_terminal_gets_colour_and_a_bar_unless_it_says_no(images: list[str]) -> None:
    output = on_terminal("analyze", *images, columns=120)
    assert "\x1b[1;31m" in output or "\x1b[31m" in output or "\x1b[32m" in output
    assert "opening" in output
    plain = on_terminal("analyze", *images, columns=120, NO_COLOR="1")
    assert "\x1b[31m" not in plain and "\x1b[32m" not in plain


@pytest.mark.parametrize("columns", [40, 60, 80, 100])
def test_numbers_are_never_cut(images: list[str], columns: int, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(CliRunner().invoke(cli, ["analyze", "--json", *images]).stdout)
    for figures in (*report["volumes"].values(), report["total"]):
        figures |= {"resident": 123_456_789_012, "daemon_memory": 10 << 20, "logical": 400 << 30}
    report["volumes"]["v" * 300] = report["volumes"].pop("web.ram")
    print_savings(report, columns)
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= columns
    assert text.count("115G") + text.count("115.0 GiB") == 3 and "…" not in text
    assert text.replace("\n", "").replace(" ", "").count("v" * 12) >= 2


def test_bad_input_is_a_sentence_and_exit_code_2(tmp_path: Path, images: list[str]) -> None:
    (tmp_path / "empty").touch()
    for bad in ("missing", "empty", "."):
        result = process("analyze", images[0], str(tmp_path / bad))
        assert result.returncode == 2 and not result.stdout
        assert result.stderr.startswith("blockstore: ") and result.stderr.count("\n") == 1
    for arguments in (["analyze"], ["analyze", "--bogus", images[0]], ["nonsense"], ["analyze", ""], ["--bogus"]):
        result = process(*arguments)
        assert result.returncode == 2 and "Traceback" not in result.stderr and result.stderr


def test_full_or_closed_output(images: list[str]) -> None:
    command = [sys.executable, "-m", "blockstore", "analyze", "--json", *images]
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr == "blockstore: the output cannot be written: No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.returncode == 1 and result.stderr == ""


def test_interrupt(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        for _ in range(1 << 14):  # some seconds of work: nothing in it is alike, and all is compressed
            file.write((os.urandom(2048) + bytes(2048)) * 2)
            file.write(os.urandom(2048) + bytes(2048))
    child = subprocess.Popen(
        [sys.executable, "-m", "blockstore", "analyze", str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while not _has_open(child.pid, path):
        assert child.poll() is None
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=30)
    assert child.returncode == 130 and b"Traceback" not in errors


def _has_open(process_id: int, path: Path) -> bool:
    try:
        return any(link.readlink() == path for link in Path(f"/proc/{process_id}/fd").iterdir())
    except OSError:  # a descriptor was closed while we looked
        return False


def test_help_has_examples_exit_codes_and_keys() -> None:
    runner = CliRunner()
    top = runner.invoke(cli, ["--help"]).output
    assert "Exit codes:" in top and "_BLOCKSTORE_COMPLETE" in top and all(name in top for name in COMMANDS)
    text_of_help = runner.invoke(analyze, ["--help"]).output
    assert "Example:" in text_of_help
    assert all(word in text_of_help for word in ("ksm_bytes", "zram_bytes", "blocks", "footprint"))


def test_version_and_completion() -> None:
    assert process("--version").stdout.startswith("blockstore, version ")
    completed = process(_BLOCKSTORE_COMPLETE="bash_complete", COMP_WORDS="blockstore a", COMP_CWORD="1", PYTHONUTF8="1")
    assert completed.stdout.strip() == "plain,attach\nplain,analyze"


def test_analyze_imports_no_fuse_and_no_trio(images: list[str]) -> None:
    script = (
        "import sys; from blockstore.cli.main import main; code = main(sys.argv[1:]);"
        "assert not {'pyfuse3', 'trio', 'blockstore.daemon'} & set(sys.modules); sys.exit(code)"
    )
    result = subprocess.run([sys.executable, "-c", script, "analyze", *images], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
