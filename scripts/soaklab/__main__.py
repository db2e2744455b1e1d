"""`python -m soaklab`, which scripts/soak runs."""

import sys

from soaklab.cli import main

sys.exit(main())
