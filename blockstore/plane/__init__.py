"""The data plane: compiled code for what happens once a block. Knows no names, no policy, no tier.

Importing it raises BlockstoreError, with the command that builds it, where it is not built: each `.pyi` here describes
one compiled module.
"""

import sys
from importlib import import_module
from pathlib import Path

from blockstore.errors import BlockstoreError

_FOLDER = Path(__file__).parent
_PYTHON = ".".join(map(str, sys.version_info[:2]))


def _import_all() -> None:
    """Raises BlockstoreError for a module that is missing, or was built for another Python, machine or version of the
    others."""
    for stub in sorted(_FOLDER.rglob("*.pyi")):
        try:
            import_module(f"{__name__}.{stub.parent.name}.{stub.stem}")
        except (ImportError, TypeError, ValueError) as error:  # the latter two: of types that have changed since
            raise BlockstoreError(
                f"the compiled core in {_FOLDER} is not built, or not for Python {_PYTHON} on this machine ({error}); "
                f"{_remedy()}"
            ) from error


def _remedy() -> str:
    """Returns what builds it: in a checkout, or where the package was installed."""
    setup = _FOLDER.parents[1] / "scripts" / "setup"
    if setup.is_file():
        return f"build it: {setup}"
    return f"in the folder of its sources build it: {sys.executable} -m pip install --force-reinstall --no-cache-dir ."


_import_all()
