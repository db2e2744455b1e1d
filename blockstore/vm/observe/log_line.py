"""Lines of the controller's process for `daemon.controller` in the state directory, which is its stderr."""

from __future__ import annotations

import sys
import time

from blockstore.printable import printable


def log(who: str, text: str) -> None:
    """One line, now."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {who}: {printable(text)}", file=sys.stderr, flush=True)
