"""Maps a file at one address for good. See region.pyi."""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.exc cimport PyErr_SetFromErrno
from libc.stdint cimport uint8_t

from blockstore.plane.sync.mapped cimport (
    MADV_DONTDUMP,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_SHARED,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mmap,
    munmap,
)


cdef class Region:
    def __cinit__(self, int fd, size_t reserved_bytes, *, bint writable=True):
        cdef void* base = mmap(
            NULL, reserved_bytes, PROT_READ | (PROT_WRITE if writable else 0), MAP_SHARED | MAP_NORESERVE, fd, 0
        )
        if base == MAP_FAILED:
            PyErr_SetFromErrno(OSError)
        madvise(base, reserved_bytes, MADV_DONTDUMP)  # the file is there, and a core dump would look at each page
        self.base = <uint8_t*>base
        self.reserved_bytes = reserved_bytes
        self.size_bytes = 0
        self.writable = writable

    def __dealloc__(self):
        if self.base != NULL:
            munmap(self.base, self.reserved_bytes)

    def extend(self, size_t size_bytes):
        if size_bytes > self.reserved_bytes or size_bytes < self.size_bytes:
            raise ValueError(f"{self.size_bytes} bytes of {self.reserved_bytes} cannot become {size_bytes}")
        self.size_bytes = size_bytes

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.base, self.size_bytes, not self.writable, flags)

    def __releasebuffer__(self, Py_buffer* buffer):
        pass
