"""What memory and records can be, as the census counts them and the report names them."""

from __future__ import annotations

from typing import Final

CLASSES: Final = ("zero", "shared", "patched", "compressed", "raw")
"""What a touched block can be: zeros; of a row with a count above one; else what its row is encoded as."""

RECORDS: Final = ("shared", "patched", "compressed", "raw", "references")
"""What a record can be: of a row of the class of that name, or of a row that only patches need."""
