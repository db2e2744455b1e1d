"""Background work on a mount: what is cold gets smaller and stays what it is; the switch works and is remembered."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from blockstore.daemon.options import DEFAULT_BACKGROUND_CPU
from tests.cli.runner import invoke
from tests.daemon.lab import Lab, Mounted, blockstore, cold, noisy, one_line, put, until
from tests.store.material import near, text

pytestmark = pytest.mark.mount

TEXTS = 1200
AT_ONCE = ("--cold-after", "0", "--background-cpu", "50")


@cache
def content() -> bytes:
    """Takes a second, and so is not made where these tests are only looked at."""
    texts = [text(seed) for seed in range(TEXTS)]
    return b"".join([*texts, *(near(each, seed, 60) for seed, each in enumerate(texts))])


def background(mounted: Mounted) -> dict[str, Any]:
    figures: dict[str, Any] = mounted.total()["background"]
    return figures


def is_dense(mounted: Mounted) -> bool:
    """All that is not in the head: it holds a third of the blocks at most."""
    return bool(mounted.total()["dense_blocks"] > TEXTS)


def test_a_cold_file_shrinks_and_stays_what_it_is(lab: Lab) -> None:
    mounted = lab.mount(*AT_ONCE)
    put(mounted.path / "memory", content())
    before = mounted.total()
    until(lambda: is_dense(mounted), "it is dense")
    until(lambda: mounted.total()["stored"] < 0.85 * before["stored"], "it is smaller")
    assert cold(mounted.path / "memory") == content()
    total, figures = mounted.total(), background(mounted)
    assert total["touched"] == before["touched"] and total["dense"] == 4096 * total["dense_blocks"] > 0
    assert figures["cpu_percent"] == 50 and figures["tried_blocks"] >= figures["densified_blocks"] > TEXTS
    assert figures["cpu_s"] > 0 and figures["saved_bytes"] > 0.15 * before["stored"]
    shown = invoke("status", str(mounted.path)).stdout
    assert "encoded anew (at most 50 % of a core)" in shown and "dense" in shown
    assert blockstore("verify", str(mounted.path)).returncode == 0
    mounted.kill_daemon()
    assert cold(mounted.path / "memory") == content() and is_dense(mounted)


def test_writes_go_on_meanwhile(lab: Lab) -> None:
    mounted = lab.mount(*AT_ONCE)
    put(mounted.path / "memory", content())
    changed = bytearray(content())
    with (mounted.path / "memory").open("r+b") as file:
        for turn in range(40):
            piece = content()[(turn + 1) * 8192 : (turn + 9) * 8192]
            changed[turn * 65536 : turn * 65536 + len(piece)] = piece
            file.seek(turn * 65536)
            file.write(piece)
            file.flush()
            put(mounted.path / "other", noisy(1 << 20, turn))
    until(lambda: is_dense(mounted), "it is dense")
    assert cold(mounted.path / "memory") == changed and cold(mounted.path / "other") == noisy(1 << 20, 39)
    assert blockstore("verify", str(mounted.path)).returncode == 0


def test_the_switch(lab: Lab) -> None:
    mounted = lab.mount("--cold-after", "0", "--background-cpu", "0")
    put(mounted.path / "memory", content())
    assert background(mounted) == dict.fromkeys(
        ("cpu_percent", "cpu_s", "idle_cpu_s", "tried_blocks", "densified_blocks", "saved_bytes"), 0
    )
    assert "(off)" in invoke("status", str(mounted.path)).stdout
    assert blockstore("set", str(mounted.path), "--background-cpu", "80").returncode == 0
    until(lambda: is_dense(mounted), "it is dense")
    assert blockstore("set", str(mounted.path), "--background", "off").returncode == 0
    mounted.kill_daemon()
    assert background(mounted)["cpu_percent"] == 0, "what was set outlives the daemon"
    put(mounted.path / "more", content()[::-1])
    tried = background(mounted)["tried_blocks"]
    assert not tried
    assert blockstore("set", str(mounted.path), "--background", "on").returncode == 0
    assert background(mounted)["cpu_percent"] == DEFAULT_BACKGROUND_CPU, "the default, because mount was told 0"
    until(lambda: background(mounted)["tried_blocks"] > 0, "it works again")
    assert cold(mounted.path / "more") == content()[::-1]


def test_bad_input(lab: Lab) -> None:
    mounted = lab.mount()
    assert background(mounted)["cpu_percent"] == DEFAULT_BACKGROUND_CPU
    for option, value in (("--background-cpu", "101"), ("--background-cpu", "-1"), ("--background", "maybe")):
        result = blockstore("set", str(mounted.path), option, value)
        assert result.returncode == 2 and option in result.stderr and "Traceback" not in result.stderr, result
    one_line(blockstore("set", str(mounted.path), "--background", "on", "--background-cpu", "5"), 2, "--background")
    one_line(blockstore("set", str(mounted.path)), 2, "--background-cpu")
