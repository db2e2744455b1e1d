"""Changes of ranges of a map that carry no data. See ranges.pyi.

A page of the map at a time: what it had is noted on the stack until all of its entries have changed.
"""

from libc.stdint cimport uint64_t

from blockstore.plane.blocks.commit cimport (
    Books,
    Commit,
    Target,
    acquire_entries,
    drop_entries,
)
from blockstore.plane.codec.layout cimport HOLE
from blockstore.plane.sync.atomics cimport publish_64
from blockstore.plane.tables.block_map cimport (
    PAGE_ENTRIES,
    BlockMap,
    MapView,
    copy_entries,
    give_memory,
    next_with_memory,
    page_end,
)

include "../sync/points.pxi"


def discard(Commit commit not None, BlockMap block_map not None, uint64_t first, uint64_t count):
    cdef MapView* view = &block_map.view
    cdef uint64_t old[PAGE_ENTRIES]
    cdef uint64_t end, stop, taken
    commit.check_room(count)
    if first >= view.capacity:
        return
    end = first + min(count, view.capacity - first)
    with nogil:
        first = next_with_memory(view, first, end)
        while first < end:
            stop = page_end(first, end)
            taken = take_entries(view, first, stop, old)
            drop_entries(&commit.books, old, taken)
            first = next_with_memory(view, stop, end)


def clone(
    Commit commit not None, BlockMap source not None, uint64_t first, BlockMap target not None, uint64_t to,
    uint64_t count,
):
    cdef Target place = Target(&target.view, to, count)
    cdef uint64_t done = 0
    commit.check_room(count)
    if not count:
        return
    if give_memory(&target.view, to, count):
        raise ValueError(f"the map has no memory for all of {count} blocks from {to} on")
    with nogil:
        while done < count:
            place.first, place.count = to + done, min(count - done, <uint64_t>PAGE_ENTRIES)
            clone_some(&commit.books, &source.view, first + done, &place)
            done += place.count


def replace(BlockMap block_map not None, uint64_t first, const uint64_t[::1] entries not None):
    cdef Target target = Target(&block_map.view, first, entries.shape[0])
    if not target.count:
        return
    if give_memory(target.view, first, target.count):
        raise ValueError(f"the map has no memory for all of {target.count} blocks from {first} on")
    with nogil:
        put_entries(&target, &entries[0], NULL)


def clear(BlockMap block_map not None, uint64_t first, uint64_t end):
    cdef MapView* view = &block_map.view
    cdef uint64_t old[PAGE_ENTRIES]
    cdef uint64_t stop
    end = min(end, view.capacity)
    with nogil:
        first = next_with_memory(view, first, end)
        while first < end:
            stop = page_end(first, end)
            take_entries(view, first, stop, old)
            first = next_with_memory(view, stop, end)


cdef uint64_t take_entries(MapView* view, uint64_t first, uint64_t end, uint64_t* old) noexcept nogil:
    """Lets the blocks of a page be holes. Returns how many were none, whose entries are in `old`."""
    cdef uint64_t block, entry, taken = 0
    for block in range(first, end):
        entry = view.entries[block]
        if entry != HOLE:
            old[taken] = entry
            taken += 1
            publish_64(&view.entries[block], HOLE)
    view.touched_blocks -= taken
    return taken


cdef void clone_some(Books* books, const MapView* source, uint64_t first, const Target* target) noexcept nogil:
    """Clones so many blocks as a page of a map has at most: first what the target is to point at is counted."""
    cdef uint64_t new[PAGE_ENTRIES]
    cdef uint64_t old[PAGE_ENTRIES]
    copy_entries(source, first, target.count, new)
    acquire_entries(books, new, target.count)
    put_entries(target, new, old)
    drop_entries(books, old, target.count)


cdef void put_entries(const Target* target, const uint64_t* entries, uint64_t* old) noexcept nogil:
    """Lets the blocks of the target have these entries. Those that they had are in `old`, unless it is NULL."""
    cdef uint64_t* places = target.view.entries + target.first
    cdef uint64_t number
    for number in range(target.count):
        target.view.touched_blocks += <int>(entries[number] != HOLE) - <int>(places[number] != HOLE)
        if old != NULL:
            old[number] = places[number]
        publish_64(&places[number], entries[number])
