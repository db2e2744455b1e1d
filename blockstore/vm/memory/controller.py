"""Where the controller was before vm/control/. A daemon of an earlier version starts it by this name, also after the
code was replaced and before `blockstore reload`: without it, VMs would be left alone meanwhile.
"""

import sys

from blockstore.vm.control.controller import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
