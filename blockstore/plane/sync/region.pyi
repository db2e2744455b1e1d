"""A file that is mapped at one address for good, however long it grows.

The largest size is mapped at once, far beyond the end of the file, which costs addresses and nothing else: no memory,
no page table, and nothing under vm.overcommit_memory=2, for a shared mapping of a file is not counted (mmap(2),
Documentation/mm/overcommit-accounting.rst). When the file has grown its new pages are there. So growing moves nothing,
cannot fail half-way and takes no second mapping (vm.max_map_count), and whoever holds a view or a pointer keeps it.

The file must be as long as `extend` is told before it is told so, and have memory before that is touched: beyond the
end of a file, and in a hole of a full file system, a touch is SIGBUS.
"""

class Region:
    """Exports the first `size_bytes` as a buffer of unsigned bytes, writable if the region is.

    It has no `close`: it is unmapped when it and all views are gone, so no view can outlive its memory.
    """

    def __init__(self, fd: int, reserved_bytes: int, *, writable: bool = True) -> None:
        """Maps the file; the descriptor may be closed afterwards. Raises OSError: ENOMEM where `ulimit -v` or
        vm.max_map_count is reached."""

    @property
    def reserved_bytes(self) -> int:
        """The largest size."""

    @property
    def size_bytes(self) -> int:
        """How far views reach; 0 at first."""

    def extend(self, size_bytes: int) -> None:
        """Lets new views reach so far. Older ones stay as they are. Raises ValueError beyond `reserved_bytes`, and for
        less than there is."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
