"""The plane's codec for Python code that encodes or decodes a block now and then.

One is enough for all threads, because its calls keep the interpreter's lock (plane/codec/codec.pyi).
"""

from __future__ import annotations

from typing import Final

from blockstore.plane.codec.codec import Codec

Buffer = bytes | bytearray | memoryview

CODEC: Final = Codec()
