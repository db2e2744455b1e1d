"""`python -m blockstore` is `blockstore`."""

import sys

from blockstore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
