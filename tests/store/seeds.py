"""Seeds of domains for tests: random numbers, and the same ones in each run."""

from __future__ import annotations

import random


class Seeds:
    """Stands in the place of `secrets` in store/domains.py. A test that sets `drawn` back gets the same seeds again."""

    def __init__(self) -> None:
        self.drawn = 0

    def randbits(self, bits: int) -> int:
        self.drawn += 1
        return random.Random(self.drawn).getrandbits(bits)
