"""`python -m benchlab`, which scripts/bench runs."""

import sys

from benchlab.cli import main

sys.exit(main())
