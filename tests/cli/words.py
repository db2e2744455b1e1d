"""What reports are expected to say: written out once, and not taken from the program."""

from __future__ import annotations

CLASSES = ("zero", "shared", "patched", "compressed", "dense", "raw", "paged")
