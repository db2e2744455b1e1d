"""Entry point of the background process; started by launch.start, not by hand."""

import sys

from blockstore.daemon.launch import main

sys.exit(main(sys.argv[1:]))
