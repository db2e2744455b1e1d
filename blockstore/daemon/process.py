"""What a daemon is as a process: its log, its exit code, and what it tells the service manager when it fails.

    python -m blockstore.daemon OPTIONS            serve
    python -m blockstore.daemon --check OPTIONS    would this code start on the state? Changes nothing.

Exit code 0: the mount has ended. RELOAD_EXIT_CODE (notify.py): start me again. Others: I have failed.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import sys
import threading
from pathlib import Path
from typing import Any, Final

from blockstore.daemon.options import MountOptions
from blockstore.daemon.serve import serve
from blockstore.daemon.supervise.notify import Service
from blockstore.errors import BlockstoreError, MountError
from blockstore.printable import printable
from blockstore.store.state.superblock import check_version

LOG_BYTES: Final = 1 << 20
"""daemon.log and the one before it: enough for months, and a flood of errors cannot fill the state's file system."""

SWITCH_S: Final = 0.0002
"""How long a thread waits until another one has to let go of the interpreter's lock. A step of the core gives it up and
takes it back with the store lock held, for which writes wait: beside a thread that computes a step of compaction held
the store lock for 16 ms with Python's 5 ms, and does so for 1.2 ms with this."""


def main(arguments: list[str]) -> int:
    """Be a daemon, or check whether one could be; the exit code."""
    if arguments[0] == "--check":
        return _check(MountOptions.from_json(arguments[1]))
    sys.setswitchinterval(SWITCH_S)
    options, service = MountOptions.from_json(arguments[0]), Service()
    faulthandler.enable()
    _start_log(options)
    try:
        serve(options, service)
    except BlockstoreError as error:
        if not options.foreground:
            logging.critical("%s", error)
        service.failed(str(error), error.exit_code)
        return MountError.exit_code if service.kept else error.exit_code  # to give up would end the mount
    except BaseException as error:
        logging.critical("the daemon ended by an error", exc_info=True)
        service.failed(f"the daemon failed ({error!r}); look at {options.state}/daemon.log", 1)
        return 1
    return 0


def _check(options: MountOptions) -> int:
    try:
        check_version(Path(options.state))
    except BlockstoreError as error:
        print(printable(str(error)), file=sys.stderr)
        return error.exit_code
    return 0


def _start_log(options: MountOptions) -> None:
    handler: logging.Handler
    if options.foreground:
        handler = logging.StreamHandler(sys.stderr)
    else:
        path = Path(options.state) / "daemon.log"
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1, encoding="utf-8")
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    threading.excepthook = _log_thread_error


class _Formatter(logging.Formatter):
    """Of lines in which a name can neither begin another line nor do anything to the terminal that shows them."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(printable, super().formatException(ei).split("\n")))


def _log_thread_error(arguments: Any) -> None:
    logging.critical("the thread %s ended by an error", arguments.thread, exc_info=arguments.exc_value)
