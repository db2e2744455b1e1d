"""The numbers of the stored format stand twice, for Python and for compiled code, and are the same."""

from __future__ import annotations

import re
from pathlib import Path

from blockstore.store.state import geometry

LAYOUT = Path(geometry.__file__).parents[2] / "plane" / "codec" / "layout.pxd"


def test_compiled_code_has_the_same_numbers() -> None:
    numbers = {name: int(value, 0) for name, value in re.findall(r"^ {4}(\w+) = (\w+)$", LAYOUT.read_text(), re.M)}
    assert len(numbers) >= 20
    assert numbers == {name: getattr(geometry, name) for name in numbers}
