"""Bytes stored, against what the commit before the compiled core stored of the same images, with patches and without.

The images are made by rule (synthetic.py), because those of guests are too large to be kept, and no guest leaves the
same memory twice. What that commit stored stands in stored.json beside this, and is made so, in the project's root:

    git worktree add --detach /tmp/before 83ba1ad
    PYTHONPATH=scripts .venv/bin/python -m benchlab.cost.stored /tmp/before >scripts/benchlab/cost/stored.json
"""

from __future__ import annotations

import json
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchlab import processes, results, synthetic
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.figures import Figure, from_repetitions, ratios

BEFORE: Final = Path(__file__).with_suffix(".json")
"""`sha256` of the images, and by setting the bytes stored of all of them, for each of SEEDS."""

TARGET: Final = 1.0

SETTINGS: Final[Mapping[str, tuple[str, ...]]] = {"with patches": (), "without patches": ("--no-patch",)}
"""Options of `blockstore analyze`."""

SEEDS: Final = (1, 2, 3)
"""Of a domain's digests, otherwise left to chance (store/domains.py): which blocks are found to be alike depends
on them, and two runs of one commit differ by some 0.2 %."""

_WITH_SEED: Final = """
import secrets, sys
from blockstore.cli.main import run
seed = int(sys.argv.pop(1))
secrets.randbits = lambda bits: seed
run()
"""

_ANALYZE_S: Final = 600.0


def measure(bench: Bench) -> list[Figure]:
    """The ratio for each setting; there is nothing to make quick about it."""
    images = ", ".join(synthetic.NAMES)
    bench.say(f"stored: {images}, {synthetic.IMAGE_BYTES >> 20} MiB each, made by rule; {len(SEEDS)} times")
    before: dict[str, Any] = json.loads(BEFORE.read_text())
    folder = bench.workspace.states / "synthetic"
    folder.mkdir()
    now = _stored_by(results.PROJECT, folder)
    shutil.rmtree(folder)
    if now["sha256"] != before["sha256"]:
        raise BenchError(f"{BEFORE.name} was made of other images; {Path(__file__).name} says how to make it anew")
    return [figure(setting, now[setting], before[setting]) for setting in SETTINGS]


def figure(setting: str, now: Sequence[int], before: Sequence[int]) -> Figure:
    """Of bytes stored, one entry a seed."""
    note = f"{statistics.median(now):,.0f} of {statistics.median(before):,.0f} bytes; images made by rule"
    name = f"{setting} / before the compiled core"
    return from_repetitions("stored", name, ratios(now, before), target=TARGET, note=note)


def _stored_by(tree: Path, folder: Path) -> dict[str, Any]:
    """What a tree of this project stores of the images, which are made in the folder, as BEFORE has it."""
    paths = synthetic.make(folder)
    return {"sha256": synthetic.sha256(paths)} | {
        setting: [_analyze(tree, paths, options, seed) for seed in SEEDS] for setting, options in SETTINGS.items()
    }


def _analyze(tree: Path, paths: Sequence[Path], options: Sequence[str], seed: int) -> int:
    # -P: else the package of the folder that this is started in would come first.
    interpreter = (sys.executable, "-P", "-c", _WITH_SEED, str(seed))
    command: list[str | Path] = [*interpreter, "analyze", "--json", *options, *paths]
    environment = {"PYTHONPATH": str(tree)}
    output = processes.run(command, processes.nothing_to_abort, _ANALYZE_S, environment=environment)
    return int(json.loads(output)["total"]["stored"])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        print(json.dumps(_stored_by(Path(sys.argv[1]).resolve(), Path(made)), indent=1))
