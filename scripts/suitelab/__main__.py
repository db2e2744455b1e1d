"""`python -m suitelab SUITE`, which scripts/quick, scripts/test and scripts/nightly run."""

import sys

from suitelab.cli import main

sys.exit(main())
