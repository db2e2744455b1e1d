"""stored: bytes against those of an earlier commit, of images that are the same on every machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchlab import images, synthetic
from benchlab.cost import stored


def test_the_earlier_commit_stored_these_images(tmp_path: Path) -> None:
    before = json.loads(stored.BEFORE.read_text())
    paths = synthetic.make(tmp_path)
    assert synthetic.sha256(paths) == before["sha256"], "the rule has changed: make the file anew, see stored.py"
    assert set(before) == {"sha256", *stored.SETTINGS}
    assert all(len(before[setting]) == len(stored.SEEDS) for setting in stored.SETTINGS)
    assert [path.stat().st_size for path in paths] == [synthetic.IMAGE_BYTES] * len(synthetic.NAMES)
    nonzero = [len(images.data_blocks(path)) * images.BLOCK_BYTES for path in paths]
    assert nonzero == [synthetic.IMAGE_BYTES * 15 // 16] * len(paths)


@pytest.mark.parametrize(
    ("now", "verdict"), [([100, 200, 300], "met"), ([90, 200, 400], "met"), ([100, 201, 301], "short")]
)
def test_bytes_are_compared_seed_by_seed(now: list[int], verdict: str) -> None:
    found = stored.figure("with patches", now, [100, 200, 300])
    ratios = sorted(after / before for after, before in zip(now, [100, 200, 300], strict=True))
    assert (found.low, found.value, found.high, found.verdict) == (*ratios, verdict)
    assert found.note.startswith(f"{now[1]} of 200 bytes")
