/* The floor of a fault: a libfuse low-level server that answers from a constant.
 *
 *     floor MOUNTPOINT BYTES
 *
 * Serves one file, MOUNTPOINT/file, of BYTES bytes: every read is answered from the same buffer, in one thread, and
 * the kernel may keep what it has (keep_cache). What a fault costs here, it costs in FUSE and the kernel alone.
 * Runs in the foreground until it is unmounted, or told to by SIGTERM.
 */
#define FUSE_USE_VERSION 31

#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_INODE 2
#define VALID_S 300.0
#define LARGEST_READ_BYTES (1 << 20)

static off_t file_bytes;
static char *answer;

static void attributes(fuse_ino_t inode, struct stat *attr)
{
    memset(attr, 0, sizeof *attr);
    attr->st_ino = inode;
    if (inode == FUSE_ROOT_ID) {
        attr->st_mode = S_IFDIR | 0755;
        attr->st_nlink = 2;
    } else {
        attr->st_mode = S_IFREG | 0644;
        attr->st_nlink = 1;
        attr->st_size = file_bytes;
    }
}

static void on_getattr(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    struct stat attr;
    (void)file;
    attributes(inode, &attr);
    fuse_reply_attr(request, &attr, VALID_S);
}

static void on_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
    struct fuse_entry_param entry;
    if (parent != FUSE_ROOT_ID || strcmp(name, "file") != 0) {
        fuse_reply_err(request, ENOENT);
        return;
    }
    memset(&entry, 0, sizeof entry);
    entry.ino = FILE_INODE;
    entry.attr_timeout = entry.entry_timeout = VALID_S;
    attributes(FILE_INODE, &entry.attr);
    fuse_reply_entry(request, &entry);
}

static void on_open(fuse_req_t request, fuse_ino_t inode, struct fuse_file_info *file)
{
    (void)inode;
    file->keep_cache = 1;
    fuse_reply_open(request, file);
}

static void on_read(fuse_req_t request, fuse_ino_t inode, size_t size, off_t offset, struct fuse_file_info *file)
{
    (void)inode;
    (void)offset;
    (void)file;
    fuse_reply_buf(request, answer, size < LARGEST_READ_BYTES ? size : LARGEST_READ_BYTES);
}

static const struct fuse_lowlevel_ops operations = {
    .lookup = on_lookup,
    .getattr = on_getattr,
    .open = on_open,
    .read = on_read,
};

int main(int count, char **arguments)
{
    char *options[] = {arguments[0], "-o", "fsname=blockstore-bench-floor", NULL};
    struct fuse_args args = FUSE_ARGS_INIT(3, options);
    struct fuse_session *session;
    int result = 1;

    if (count != 3) {
        fprintf(stderr, "usage: floor MOUNTPOINT BYTES\n");
        return 2;
    }
    file_bytes = strtoll(arguments[2], NULL, 10);
    if (posix_memalign((void **)&answer, 4096, LARGEST_READ_BYTES) != 0)
        return 1;
    memset(answer, 0x5a, LARGEST_READ_BYTES);
    session = fuse_session_new(&args, &operations, sizeof operations, NULL);
    if (session == NULL)
        return 1;
    if (fuse_set_signal_handlers(session) == 0) {
        if (fuse_session_mount(session, arguments[1]) == 0) {
            result = fuse_session_loop(session) < 0;
            fuse_session_unmount(session);
        }
        fuse_remove_signal_handlers(session);
    }
    fuse_session_destroy(session);
    return result;
}
