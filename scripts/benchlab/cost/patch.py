"""What patches save: three guests with different services, with and without (docs/decisions.md)."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from benchlab import processes
from benchlab.bench import Bench
from benchlab.figures import Figure

PATCH_TARGET: Final = 0.88

_ANALYZE_S: Final = 600.0


def measure(bench: Bench) -> list[Figure]:
    """`blockstore analyze` on the three images, whole: there is nothing to make quick about it."""
    bench.say("patch: analyzing " + ", ".join(bench.images))
    command: list[str | Path] = [sys.executable, "-m", "blockstore", "analyze", "--json", *bench.images.values()]
    total = processes.run_json(command, processes.nothing_to_abort, _ANALYZE_S)["total"]
    stored, plain = total["stored"], total["stored_no_patch"]
    note = f"{stored / 2**20:.0f} of {plain / 2**20:.0f} MiB; {total['patched_blocks']:,} blocks patched"
    others = ", ".join(
        f"{name} {total[key] / 2**20:.0f}" for name, key in (("KSM", "ksm_bytes"), ("zram", "zram_bytes"))
    )
    return [
        Figure("patch", "stored / stored without patches", stored / plain, target=PATCH_TARGET, note=note),
        Figure(
            "patch",
            "stored / touched",
            stored / total["touched"],
            note=f"touched {total['touched'] / 2**20:.0f} MiB; {others} MiB",
        ),
    ]
