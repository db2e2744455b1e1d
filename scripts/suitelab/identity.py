"""The word that tells runs of the suite apart. It is in the names and the environment of all that their tests make."""

from __future__ import annotations

import os
from typing import Final

VARIABLE: Final = "BLOCKSTORE_TEST_RUN"

RUN: Final = os.environ.get(VARIABLE, "")
"""Of the run that this process is part of; empty when there is none."""

WORKSPACE_PREFIX: Final = f"blockstore-test-{RUN}-" if RUN else "blockstore-test-"
"""Of the names of the tests' folders."""
