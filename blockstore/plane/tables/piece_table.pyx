"""What the table of pieces says, and counting what of each piece is live. See piece_table.pyi."""

from array import array

from libc.stdint cimport int64_t, uint64_t

from blockstore.plane.codec.layout cimport PIECE_MASK, WHERE_SEGMENT_SHIFT, size_of

cdef enum:
    LENGTH_MASK = (1 << 21) - 1


def figures_of(const uint64_t[::1] table not None):
    cdef Py_ssize_t piece
    cdef uint64_t pieces = 0, stored_bytes = 0
    with nogil:
        for piece in range(table.shape[0]):
            pieces += table[piece] != 0
            stored_bytes += table[piece] & LENGTH_MASK
    return pieces, stored_bytes


def lengths_of(const uint64_t[::1] table not None):
    cdef Py_ssize_t piece
    cdef int64_t[::1] lengths
    found = array("q", [0]) * table.shape[0]
    lengths = found
    with nogil:
        for piece in range(table.shape[0]):
            lengths[piece] = <int64_t>(table[piece] & LENGTH_MASK)
    return found


def numbers_of(const uint64_t[::1] table not None, *, bint used=True):
    cdef Py_ssize_t piece
    numbers = []
    for piece in range(table.shape[0]):
        if (table[piece] != 0) == used:
            numbers.append(piece)
    return numbers


def unneeded(const uint64_t[::1] table not None, const int64_t[::1] live_bytes not None):
    cdef Py_ssize_t piece
    if live_bytes.shape[0] < table.shape[0]:
        raise ValueError(f"live bytes of {live_bytes.shape[0]} pieces for {table.shape[0]}")
    numbers = []
    for piece in range(table.shape[0]):
        if table[piece] and not live_bytes[piece]:
            numbers.append(piece)
    return numbers


cdef inline uint64_t piece_of(uint64_t where) noexcept nogil:
    return where >> WHERE_SEGMENT_SHIFT & PIECE_MASK


def count_words(int64_t[::1] live_bytes not None, const uint64_t[::1] words not None):
    cdef Py_ssize_t number
    cdef uint64_t piece
    for number in range(words.shape[0]):
        piece = piece_of(words[number])
        if piece < <uint64_t>live_bytes.shape[0]:
            live_bytes[piece] += size_of(words[number])


def forget_words(int64_t[::1] live_bytes not None, const uint64_t[::1] words not None):
    cdef Py_ssize_t number
    cdef uint64_t piece
    for number in range(words.shape[0]):
        piece = piece_of(words[number])
        if piece < <uint64_t>live_bytes.shape[0]:
            live_bytes[piece] -= <int64_t>size_of(words[number])
    emptied = set()
    for number in range(words.shape[0]):
        piece = piece_of(words[number])
        if piece < <uint64_t>live_bytes.shape[0] and not live_bytes[piece]:
            emptied.add(piece)
    return sorted(emptied)
