"""The process of a daemon: `python -m blockstore.daemon OPTIONS`; started by a supervisor or systemd, not by hand."""

import sys

from blockstore.daemon.supervise import lean
from blockstore.daemon.supervise.docstrings import WithoutDocstrings
from blockstore.errors import BlockstoreError

try:
    with WithoutDocstrings(), lean.StandIns():
        from blockstore.daemon.process import main
except BlockstoreError as error:  # of the compiled core
    sys.exit(f"blockstore: {error}")

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
