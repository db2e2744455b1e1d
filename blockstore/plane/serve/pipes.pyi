"""Empty pipes, for WRITEs whose data nobody has copied out of the kernel yet.

A lane links the pages of a request into its pipe (daemon/fuse/device.py). To copy them takes as long as ten faults, so
it leaves a large WRITE in the pipe, which goes to the encoders with the request, and takes another pipe for what comes
next. Where none is left the lane copies.
"""

from collections.abc import Sequence

class Pipes:
    """Of one queue of requests."""

    def __init__(self, pipes: Sequence[tuple[int, int]]) -> None:
        """`pipes` are the ends (out, in) of empty pipes, as large as those of the lanes; they stay the caller's, who
        closes them when nothing serves any more. Raises ValueError for more than 32."""

    def __len__(self) -> int:
        """How many are free."""
