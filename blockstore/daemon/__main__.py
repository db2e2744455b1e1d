"""The process of a daemon: `python -m blockstore.daemon OPTIONS`; started by a supervisor or systemd, not by hand."""

import sys

from blockstore.daemon.process import main

sys.exit(main(sys.argv[1:]))
