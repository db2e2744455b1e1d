"""The daemon: a mount whose files are volumes of the store.

door        the one way to the store, for the lane's thread and for trio's
fuse_abi    what is read from and written to /dev/fuse
lane        READ WRITE FALLOCATE COPY_FILE_RANGE LSEEK, straight from /dev/fuse
relay       everything else, between /dev/fuse and pyfuse3
names       names and attributes, in SQLite
operations  what pyfuse3 asks: names, attributes, permissions (and data with --no-lane)
control     the socket through which the command line asks
throttle    the kernel's limit on dirty pages of the mount
serve       the process: mount, threads, the end
launch      starting it, and refusing to
mounts      which mounts there are, and who uses them
"""
