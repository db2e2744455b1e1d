"""What memory and records can be, as the census counts them and the report names them."""

from __future__ import annotations

from typing import Final

CLASSES: Final = ("zero", "shared", "patched", "compressed", "dense", "raw", "paged")
"""What a touched block can be: zeros; in the tier; of a row with a count above one; else what its row is encoded as.
Patches that were encoded anew because they are cold are `dense`, as all that zstd has made is."""

RECORDS: Final = ("shared", "patched", "compressed", "dense", "raw", "paged", "references")
"""What a record can be: of a row of the class of that name, or of a row that only patches need. All but `paged` take
memory."""

POOL_RECORDS: Final = tuple(name for name in RECORDS if name != "paged")
"""Those that do."""
