/* The clients of the bench: processes that touch a file of a mount the way a VM does, through a mapping.
 *
 *     client fill FILE SOURCE              write SOURCE over FILE front to back, write it back; prints seconds
 *     client fault FILE PAGES PACE_US      drop FILE from the page cache, then fault the pages whose numbers are in
 *                                          PAGES (u32 each), one every PACE_US; prints nanoseconds of each, u32, binary
 *     client faults FILE PAGES THREADS     the same, one fault after the other, by several threads, which share the pages
 *                                          out among them; prints faults, seconds
 *     client check FILE SOURCE             drop FILE from the page cache, then compare it with SOURCE; prints bytes
 *     client load FILE SOURCE SECONDS      `fill`, print "begun", then over and over with other content until the time is
 *                                          over or SIGTERM comes; prints bytes, seconds since it had begun
 *     client dirty FILE SECONDS SEED       store into random pages; prints stores, seconds, the longest store in ns, and
 *                                          the longest without the time in which it waited for a core (held_ns)
 *     client scatter FILE STEP ROUNDS      change one word in every STEP-th page, write back, ROUNDS times; prints pages,
 *                                          seconds of the write-back
 *     client sync FILE SECONDS             write FILE back every second, 4 MiB at a time, as `blockstore evict` does
 *     client flush FILE SECONDS            have FILE's dirty pages written back all the time, as the kernel's flusher does
 *
 * FILE may be a block device, which keeps its length. Only this and fio may touch a mount in the bench: when a server
 * hangs, one of these hangs, and can be freed by aborting the connection. Text answers are one JSON object.
 */
#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define PIECE (1 << 20)
#define WRITE_BACK_BYTES (4 << 20)
#define LONG_NS 1000000 /* shorter stores are nobody's longest */
#define LOOK_NS 5000000
#define NS_PER_S 1000000000ull
#define MAXIMUM_THREADS 64

static volatile sig_atomic_t ended;

struct mapping {
    int fd;
    uint8_t *bytes;
    size_t length;
    int is_device;
};

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static void fail(const char *what)
{
    fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Give the file a length other than 0, and say how long it is then. A block device has its own, which must do. */
static size_t length_of(int fd, size_t wanted, int *is_device)
{
    struct stat status;
    uint64_t length;
    if (fstat(fd, &status))
        fail("fstat");
    *is_device = S_ISBLK(status.st_mode);
    length = (uint64_t)status.st_size;
    if (!*is_device && wanted && wanted != length) {
        if (ftruncate(fd, (off_t)wanted))
            fail("ftruncate");
        length = wanted;
    }
    if (*is_device && ioctl(fd, BLKGETSIZE64, &length))
        fail("BLKGETSIZE64");
    if (wanted > length) {
        fprintf(stderr, "client: the device has only %" PRIu64 " bytes\n", length);
        exit(1);
    }
    return wanted ? wanted : (size_t)length;
}

/* Map a file; a `length` other than 0 is given to it first. */
static struct mapping map_file(const char *path, int writable, size_t length)
{
    struct mapping map;
    map.fd = open(path, writable ? O_RDWR | O_CREAT : O_RDONLY, 0600);
    if (map.fd < 0)
        fail(path);
    map.length = length_of(map.fd, length, &map.is_device);
    map.bytes = mmap(NULL, map.length, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, map.fd, 0);
    if (map.bytes == MAP_FAILED)
        fail(path);
    return map;
}

/* Write it all, or less if we are to end, and write it back; how much it was. From the second pass on one word of each
 * page differs from the pass before. */
static size_t write_pass(struct mapping target, struct mapping source, uint64_t pass)
{
    size_t at;
    for (at = 0; at < target.length && !ended; at += PIECE) {
        size_t length = target.length - at < PIECE ? target.length - at : PIECE;
        memcpy(target.bytes + at, source.bytes + at, length);
        for (size_t page = at; pass && page < at + length; page += PAGE)
            *(volatile uint64_t *)(target.bytes + page + 8 * (pass % (PAGE / 8))) = pass << 32 | page / PAGE;
    }
    if (fdatasync(target.fd))
        fail("fdatasync");
    return at < target.length ? at : target.length;
}

static int fill(const char *path, const char *source_path)
{
    struct mapping source = map_file(source_path, 0, 0), target = map_file(path, 1, source.length);
    uint64_t start;
    if (madvise(source.bytes, source.length, MADV_POPULATE_READ))
        fail("MADV_POPULATE_READ");
    start = now_ns();
    write_pass(target, source, 0);
    printf("{\"bytes\": %zu, \"seconds\": %.6f}\n", target.length, (double)(now_ns() - start) / NS_PER_S);
    return 0;
}

static void end_soon(int number)
{
    (void)number;
    ended = 1;
}

static int load(const char *path, const char *source_path, double seconds)
{
    struct mapping source = map_file(source_path, 0, 0), target = map_file(path, 1, source.length);
    struct sigaction on_term = {.sa_handler = end_soon, .sa_flags = SA_RESTART};
    uint64_t start, end, pass = 1;
    size_t written = 0;
    if (sigaction(SIGTERM, &on_term, NULL))
        fail("sigaction");
    write_pass(target, source, 0);
    printf("begun\n");
    fflush(stdout);
    start = now_ns();
    end = start + (uint64_t)(seconds * NS_PER_S);
    do
        written += write_pass(target, source, pass++);
    while (now_ns() < end && !ended);
    printf("{\"bytes\": %zu, \"seconds\": %.6f}\n", written, (double)(now_ns() - start) / NS_PER_S);
    return 0;
}

/* Only clean pages that nobody has mapped can be dropped: write back, page out, drop; then look whether it worked.
 * A file of tmpfs is its page cache: there is nothing to drop. */
static void drop(struct mapping map)
{
    size_t pages = map.length / PAGE, left = 0;
    unsigned char *there;
    struct statfs system;
    if (fstatfs(map.fd, &system))
        fail("fstatfs");
    if (!map.is_device && system.f_type == TMPFS_MAGIC)
        return;
    there = malloc(pages);
    if (fdatasync(map.fd) || madvise(map.bytes, map.length, MADV_PAGEOUT))
        fail("MADV_PAGEOUT");
    if (map.is_device && ioctl(map.fd, BLKFLSBUF, 0))
        fail("BLKFLSBUF");
    if (posix_fadvise(map.fd, 0, 0, POSIX_FADV_DONTNEED) || mincore(map.bytes, map.length, there))
        fail("POSIX_FADV_DONTNEED");
    for (size_t page = 0; page < pages; page++)
        left += there[page] & 1;
    free(there);
    if (left > pages / 100) {
        fprintf(stderr, "client: %zu of %zu pages stayed in the page cache\n", left, pages);
        exit(1);
    }
}

static int fault(const char *path, const char *pages_path, uint64_t pace_ns)
{
    struct mapping pages = map_file(pages_path, 0, 0), map = map_file(path, 0, 0);
    size_t count = pages.length / sizeof(uint32_t);
    const uint32_t *numbers = (const uint32_t *)pages.bytes;
    uint32_t *times = calloc(count, sizeof *times);
    uint64_t next = 0;
    volatile uint8_t sink;
    if (times == NULL || madvise(map.bytes, map.length, MADV_RANDOM))
        fail("MADV_RANDOM");
    memset(times, 1, count * sizeof *times);
    madvise(pages.bytes, pages.length, MADV_POPULATE_READ);
    drop(map);
    for (size_t at = 0; at < count; at++) {
        const volatile uint8_t *byte = map.bytes + (size_t)numbers[at] * PAGE;
        uint64_t start, taken;
        if (pace_ns) {
            struct timespec until = {.tv_sec = (time_t)(next / NS_PER_S), .tv_nsec = (long)(next % NS_PER_S)};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
            next = now_ns() + pace_ns;
        }
        start = now_ns();
        sink = *byte;
        taken = now_ns() - start;
        times[at] = taken < UINT32_MAX ? (uint32_t)taken : UINT32_MAX;
    }
    (void)sink;
    if (fwrite(times, sizeof *times, count, stdout) != count)
        fail("stdout");
    return 0;
}

struct share { /* of one thread: every step-th of the pages, from the first on */
    pthread_t thread;
    pthread_barrier_t *start;
    const uint8_t *bytes;
    const uint32_t *numbers;
    size_t first, step, count;
};

static void *fault_share(void *argument)
{
    const struct share *share = argument;
    volatile uint8_t sink;
    pthread_barrier_wait(share->start);
    for (size_t at = share->first; at < share->count; at += share->step)
        sink = *(const volatile uint8_t *)(share->bytes + (size_t)share->numbers[at] * PAGE);
    (void)sink;
    return NULL;
}

static int faults(const char *path, const char *pages_path, size_t threads)
{
    struct mapping pages = map_file(pages_path, 0, 0), map = map_file(path, 0, 0);
    size_t count = pages.length / sizeof(uint32_t);
    struct share shares[MAXIMUM_THREADS];
    pthread_barrier_t barrier;
    uint64_t start;
    if (!threads || threads > MAXIMUM_THREADS || pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1)) {
        fprintf(stderr, "client: 1 to %d threads\n", MAXIMUM_THREADS);
        return 2;
    }
    if (madvise(map.bytes, map.length, MADV_RANDOM) || madvise(pages.bytes, pages.length, MADV_POPULATE_READ))
        fail("madvise");
    drop(map);
    for (size_t at = 0; at < threads; at++) {
        shares[at] = (struct share){.start = &barrier, .bytes = map.bytes, .numbers = (const uint32_t *)pages.bytes,
                                    .first = at, .step = threads, .count = count};
        if ((errno = pthread_create(&shares[at].thread, NULL, fault_share, &shares[at])))
            fail("pthread_create");
    }
    start = now_ns();
    pthread_barrier_wait(&barrier);
    for (size_t at = 0; at < threads; at++)
        pthread_join(shares[at].thread, NULL);
    printf("{\"faults\": %zu, \"seconds\": %.6f}\n", count, (double)(now_ns() - start) / NS_PER_S);
    return 0;
}

static int check(const char *path, const char *source_path)
{
    struct mapping source = map_file(source_path, 0, 0), map = map_file(path, 0, 0);
    drop(map);
    if (map.length < source.length) {
        fprintf(stderr, "client: %s has only %zu bytes\n", path, map.length);
        return 1;
    }
    for (size_t at = 0; at < source.length; at += PAGE) {
        size_t length = source.length - at < PAGE ? source.length - at : PAGE;
        if (memcmp(map.bytes + at, source.bytes + at, length)) {
            while (map.bytes[at] == source.bytes[at])
                at++;
            fprintf(stderr, "client: %s: byte %zu is wrong\n", path, at);
            return 1;
        }
    }
    printf("{\"bytes\": %zu}\n", source.length);
    return 0;
}

/* How long this thread was ready to run and had no core, in ns: the second number of schedstat. */
static uint64_t waited_for_a_core(int schedstat)
{
    char text[64] = "";
    uint64_t ran, waited = 0;
    if (pread(schedstat, text, sizeof text - 1, 0) <= 0 || sscanf(text, "%" SCNu64 " %" SCNu64, &ran, &waited) != 2)
        fail("/proc/self/schedstat");
    return waited;
}

static int dirty(const char *path, double seconds, uint64_t seed)
{
    struct mapping map = map_file(path, 1, 0);
    uint64_t pages = map.length / PAGE, random = seed * 2 + 1, stores = 0, longest = 0, held = 0, start, end, before;
    uint64_t waited, next_look;
    int schedstat = open("/proc/self/schedstat", O_RDONLY);
    volatile uint64_t sink;
    for (size_t page = 0; page < pages; page++) /* as a running VM: its memory is resident */
        sink = *(volatile uint64_t *)(map.bytes + page * PAGE);
    (void)sink;
    waited = waited_for_a_core(schedstat);
    start = before = next_look = now_ns();
    end = start + (uint64_t)(seconds * NS_PER_S);
    while (before < end) {
        uint64_t after;
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        *(volatile uint64_t *)(map.bytes + (random % pages) * PAGE + (random >> 40) % (PAGE / 8) * 8) = random;
        after = now_ns();
        /* Waits between two looks are charged to one store, so look often. */
        if (after - before > LONG_NS || after > next_look) {
            uint64_t now_waited = waited_for_a_core(schedstat), taken = after - before;
            longest = taken > longest ? taken : longest;
            taken -= now_waited - waited < taken ? now_waited - waited : taken;
            held = taken > held ? taken : held;
            waited = now_waited;
            after = now_ns();
            next_look = after + LOOK_NS;
        }
        before = after;
        stores++;
    }
    printf("{\"stores\": %" PRIu64 ", \"longest_ns\": %" PRIu64 ", \"held_ns\": %" PRIu64 ", \"seconds\": %.6f}\n", stores,
           longest, held, (double)(before - start) / NS_PER_S);
    return 0;
}

/* What a VM leaves behind: dirty pages here and there, each of which is written back by itself. */
static int scatter(const char *path, size_t step, uint64_t rounds)
{
    struct mapping map = map_file(path, 1, 0);
    size_t pages = 0;
    uint64_t taken = 0;
    for (uint64_t round = 1; round <= rounds; round++) {
        for (size_t page = round % step; page < map.length / PAGE; page += step, pages++)
            *(volatile uint64_t *)(map.bytes + page * PAGE + 8 * (round % (PAGE / 8))) = round << 40 | page;
        uint64_t start = now_ns();
        if (fdatasync(map.fd))
            fail("fdatasync");
        taken += now_ns() - start;
    }
    printf("{\"pages\": %zu, \"seconds\": %.6f}\n", pages, (double)taken / NS_PER_S);
    return 0;
}

static int sync_in_pieces(const struct mapping *map)
{
    const int flags = SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER;
    int failed = 0;
    for (size_t at = 0; at < map->length && !failed; at += WRITE_BACK_BYTES)
        failed = sync_file_range(map->fd, (off_t)at, WRITE_BACK_BYTES, flags);
    return failed;
}

/* Without waiting, sync_file_range writes as the flusher does: it stops when enough requests are under way. */
static int sync_often(const char *path, double seconds, int flush)
{
    struct mapping map = map_file(path, 1, 0);
    uint64_t start = now_ns(), syncs = 0;
    for (; now_ns() - start < (uint64_t)(seconds * NS_PER_S); syncs++) {
        usleep(flush ? 10 * 1000 : 1000 * 1000);
        if (flush ? sync_file_range(map.fd, 0, 0, SYNC_FILE_RANGE_WRITE) : sync_in_pieces(&map))
            fail("write-back");
    }
    printf("{\"syncs\": %" PRIu64 "}\n", syncs);
    return 0;
}

int main(int count, char **arguments)
{
    const char *command = count > 2 ? arguments[1] : "";
    if (count == 4 && !strcmp(command, "fill"))
        return fill(arguments[2], arguments[3]);
    if (count == 5 && !strcmp(command, "fault"))
        return fault(arguments[2], arguments[3], strtoull(arguments[4], NULL, 10) * 1000);
    if (count == 5 && !strcmp(command, "faults"))
        return faults(arguments[2], arguments[3], strtoull(arguments[4], NULL, 10));
    if (count == 5 && !strcmp(command, "scatter"))
        return scatter(arguments[2], strtoull(arguments[3], NULL, 10), strtoull(arguments[4], NULL, 10));
    if (count == 4 && !strcmp(command, "check"))
        return check(arguments[2], arguments[3]);
    if (count == 5 && !strcmp(command, "load"))
        return load(arguments[2], arguments[3], atof(arguments[4]));
    if (count == 5 && !strcmp(command, "dirty"))
        return dirty(arguments[2], atof(arguments[3]), strtoull(arguments[4], NULL, 10));
    if (count == 4 && (!strcmp(command, "sync") || !strcmp(command, "flush")))
        return sync_often(arguments[2], atof(arguments[3]), command[0] == 'f');
    fprintf(stderr, "client: see the head of client.c\n");
    return 2;
}
