"""The process of a daemon: `python -m blockstore.daemon OPTIONS`; started by a supervisor or systemd, not by hand."""

import sys

from blockstore.daemon import lean

with lean.stand_ins():
    from blockstore.daemon.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
