"""The daemon: a mount whose files are volumes of the store.

fuse_abi    what is read from and written to /dev/fuse
lane        READ WRITE FALLOCATE COPY_FILE_RANGE LSEEK, straight from /dev/fuse; READ is answered by plane/lane.pyx,
            most WRITEs by plane/encoders.pyx
lane_watch  what the compiled lane tells of faults, collected now and then
lane_priority  real-time priority for it, within bounds
encoder_threads  those that run plane/encoders.pyx
core_choice  the core on which it should run
lane_core   has it run there
range_requests  those that carry no data: holes, copies, where data is
jobs        those of its requests that take time, or wait for room
buffers     memory for what comes and goes
relay       everything else, between /dev/fuse and pyfuse3
names       names and attributes, in SQLite
operations  what pyfuse3 asks: names, attributes, permissions
stepper     how operations have the store do something, and wait for room
waits       how long all wait for room, and for a tier that is away
control     the socket through which the command line asks
throttle    the kernel's limit on dirty pages of the mount
answers     what can be asked there
serve       opening what is stored, serving it, closing it
session     a daemon's time at a mount: threads, tasks, handover
process     a daemon as a process: log, exit code
supervisor  holds the mount, and starts the next daemon
notify      the protocol between the two (systemd's), from the daemon's side
notify_message  its messages
lean        how these processes start in little memory
handover    what one daemon leaves to the next
phase       what the supervisor is at
phase_file  the file that says so
backoff     when it starts the next one
kernel      what is said to the kernel unasked: resend, do you know this inode
pressure    locked memory, OOM score
state_loss  state that vanishes under its daemon
memory_limit  that of the cgroup, and which pool it has room for
verification  of a mount or of a state directory
options     what mount was told
listening   taking the port for the metrics
launch      starting all this, and refusing to
unmount     ending it
names_copy  names of a state that nobody serves
mounts      which mounts there are, and who uses them
"""
