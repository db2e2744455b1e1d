"""What the command line gets from its surroundings: standard streams, and the encoding of names and of what is printed.

Names of files are bytes, which Python decodes by the locale. In one that is not UTF-8 a name would not be the one that
the daemon tells, and many names could not be encoded at all. So the names are UTF-8 everywhere (bytes that are not are
kept, PEP 383), and only what is printed is in the locale's encoding, with something similar for what that lacks.
"""

from __future__ import annotations

import codecs
import io
import locale
import os
import sys
from typing import Final

LACKING: Final = "blockstore.lacking"
LACKING_CELLS: Final = "blockstore.lacking-cells"
"""Error handlers of codecs: for what an encoding lacks an escape, or as many cells of a terminal, so that columns
stay."""

_SIMILAR: Final = dict(zip("≤µ…▲▼─\N{MINUS SIGN}▁▂▃▄▅▆▇█", "<u~^v--_.:-=+*#", strict=True))


def insist_on_utf8() -> None:
    """Begins anew in Python's UTF-8 mode (PEP 540), which cannot be entered later, if names are not UTF-8 here. What is
    started from here, daemons above all, inherits that. Returns if nothing is to be done."""
    if sys.getfilesystemencoding() != "utf-8" and sys.executable:
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def open_standard_streams() -> None:
    """Whoever has closed them does not want to read; but no file of ours may get their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, mode))


def print_in_the_locale() -> None:
    """From now on stdout and stderr are in the locale's encoding also in the UTF-8 mode that `insist_on_utf8` has
    entered, and nothing that is printed fails for what an encoding lacks. An ASCII locale is one that nobody has set:
    UTF-8 is printed then, as Python does."""
    own = locale.getencoding() if sys._xoptions.get("utf8") else ""
    is_set = bool(own) and codecs.lookup(own).name != "ascii"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests may have another one there
            stream.reconfigure(encoding=own if is_set else None, errors=LACKING)


def keep_columns() -> None:
    """From now on what is drawn on stderr is as wide where the encoding lacks letters as where it has them."""
    if isinstance(sys.__stderr__, io.TextIOWrapper):
        sys.__stderr__.reconfigure(errors=LACKING_CELLS)


def _similar(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(
        _SIMILAR.get(each) or each.encode("ascii", "backslashreplace").decode() for each in lacking
    ), error.end


def _similar_in_width(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    from rich.cells import cell_len  # 20 ms, which only those need who draw

    return "".join(_SIMILAR.get(each) or "?" * cell_len(each) for each in lacking), error.end


codecs.register_error(LACKING, _similar)
codecs.register_error(LACKING_CELLS, _similar_in_width)
