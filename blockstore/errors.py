"""The errors that a user may see, and the root of the signals that no user sees.

BlockstoreError
├── InputError      what the user gave cannot be used (a path, a size, an image)      exit code 2
├── MountError      the mount cannot be made, reached or ended                         exit code 1
│   ├── VmError     a VM cannot be reached over QMP, saved or started                  exit code 1
│   ├── StateLost   the state was deleted or renamed under a daemon that serves it     exit code 4
│   └── BusyError   it is in use: by another mount, or by processes with open files    exit code 3
├── StateError      the state directory is damaged, foreign, or of another version     exit code 4
├── OutOfRoom       the pool limit or the file system under the state is full          exit code 5
└── CorruptBlock    a stored block does not decode to what was written                 exit code 6

Each message is one sentence for the user: what is wrong with which thing, and what to do. The command line
prints the message and ends with `exit_code`; nothing else of the error is shown.

InternalSignal
├── NotHere         a record is in the tier or at another host (store/decode.py)
├── TierAway        a tier does not answer (store/tiers/)
└── PieceMissing    a tier answers, and has not got the piece (store/tiers/)
"""


class BlockstoreError(Exception):
    """Root of all errors that are written for the user."""

    exit_code = 1


class InputError(BlockstoreError):
    exit_code = 2


class MountError(BlockstoreError):
    exit_code = 1


class VmError(MountError):
    exit_code = 1


class StateLost(MountError):
    exit_code = 4


class BusyError(MountError):
    exit_code = 3


class StateError(BlockstoreError):
    exit_code = 4


class OutOfRoom(BlockstoreError):
    exit_code = 5


class CorruptBlock(BlockstoreError):
    """Reading block `block_id` gave other bytes than were written; no bytes are returned."""

    exit_code = 6

    def __init__(self, block_id: int, reason: str) -> None:
        super().__init__(f"block {block_id} cannot be decoded: {reason}")
        self.block_id = block_id


class InternalSignal(Exception):
    """Root of what one part of the code tells another, which must act on it: fetch, wait, or look elsewhere.

    Not a BlockstoreError, so that no handler of errors for users takes one for an answer. One that nobody acts on is a
    fault of the code: the request that it ends is answered with EIO, and the log has its traceback.
    """


def error_of(exit_code: int) -> type[BlockstoreError]:
    """The class of errors with this exit code, for one that another process has told; MountError if there is none."""
    kinds: list[type[BlockstoreError]] = [InputError, BusyError, StateError, OutOfRoom]
    return {kind.exit_code: kind for kind in kinds}.get(exit_code, MountError)


def state_in_use(place: str) -> BusyError:
    """Somebody else holds the lock of this state directory, or of its supervisor."""
    return BusyError(
        f"the state directory {place} is in use by a running mount; unmount it, or name another with --state"
    )
