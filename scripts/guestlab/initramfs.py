"""Builds the initramfs of all lab guests: busybox, a few kernel modules, an init script.

The archive is written directly in the "newc" cpio format, so that no staging folder, device node or root
is needed and the same input gives the same bytes.
"""

import gzip
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from guestlab.errors import GuestLabError

#: Loaded by every guest, in the order that their dependencies ask for.
GUEST_MODULES = ("virtio_pci", "virtio_blk", "virtio_balloon", "virtio-rng", "virtio_net")

#: What the console shell prints when it takes commands, and around the output of each.
READY_MARK = "@@guestlab-ready"
BEGIN_MARK = "@@guestlab-begin"
END_MARK = "@@guestlab-end"

#: Runs lines of the form "ID COMMAND" from the serial console, each in a subshell of its own, so that a
#: syntax error or an `exit` ends that line only. Raw mode: no echo, and no 4095-byte limit on a line.
CONSOLE_SHELL = f"""#!/bin/sh
stty raw -echo
printf '\\n{READY_MARK}\\n'
while IFS= read -r line; do
    id=${{line%% *}}
    printf '\\n{BEGIN_MARK} %s\\n' "$id"
    (eval "${{line#* }}") </dev/null 2>&1
    printf '\\n{END_MARK} %s %d\\n' "$id" "$?"
done
"""

#: With guestlab.root=DEVICE on the kernel command line the guest goes on to the init of that disk;
#: without, it stays here, with a tmpfs of 80 % of its memory at /work.
INIT = """#!/bin/busybox sh
export PATH=/bin HOME=/root TERM=dumb
/bin/busybox mkdir -p /proc /sys /dev /tmp /work /root /newroot
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
for module in $(cat /modules/order); do insmod "/modules/$module" || echo "guestlab: no module $module"; done
root=$(sed -n 's/.*guestlab\\.root=\\([^ ]*\\).*/\\1/p' /proc/cmdline)
if [ -n "$root" ]; then
    tries=0
    while [ ! -b "$root" ] && [ "$tries" -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
    if mount -t ext4 "$root" /newroot; then
        umount /proc; umount /sys
        mount -o move /dev /newroot/dev
        exec switch_root /newroot /sbin/init
    fi
    echo "guestlab: cannot mount $root, staying in the initramfs"
fi
mount -t tmpfs tmp /tmp
mount -t tmpfs -o size=80% work /work
cd /work
dmesg -n 1
while :; do setsid sh /console </dev/ttyS0 >/dev/ttyS0 2>&1; sleep 1; done
"""


def module_files(modules_dir: Path, names: Sequence[str] = GUEST_MODULES) -> list[Path]:
    """Return the .ko files of `names` and of what they depend on, dependencies first.

    `modules_dir` is lib/modules/VERSION of an unpacked kernel package, where depmod never ran: the
    dependencies are read from the modules themselves. Modules built into the kernel are left out.
    """
    found = {_canonical(path.stem): path for path in modules_dir.rglob("*.ko")}
    builtin_list = (modules_dir / "modules.builtin").read_text().split()
    builtin = {_canonical(Path(line).stem) for line in builtin_list}
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in found:
            raise GuestLabError(f"The kernel in {modules_dir} has no module {name}.")
        for dependency in _dependencies(found[name]):
            add(dependency)
        ordered[name] = found[name]

    for name in names:
        add(_canonical(name))
    return list(ordered.values())


def build(busybox: Path, modules: Iterable[Path]) -> bytes:
    """Return the gzipped initramfs."""
    modules = list(modules)
    archive = bytearray()
    for inode, (name, mode, rdev, data) in enumerate(_members(busybox, modules), start=1):
        archive += _newc(inode, name, mode, rdev, data)
    archive += _newc(0, "TRAILER!!!", 0, (0, 0), b"")
    return gzip.compress(bytes(archive), compresslevel=6, mtime=0)


Member = tuple[str, int, tuple[int, int], bytes]


def _members(busybox: Path, modules: Sequence[Path]) -> Iterable[Member]:
    folder, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    for name in ("bin", "dev", "modules"):
        yield name, folder, (0, 0), b""
    # The kernel opens /dev/console for init before init can mount devtmpfs.
    yield "dev/console", stat.S_IFCHR | 0o600, (5, 1), b""
    yield "bin/busybox", program, (0, 0), busybox.read_bytes()
    yield "init", program, (0, 0), INIT.encode()
    yield "console", program, (0, 0), CONSOLE_SHELL.encode()
    for path in modules:
        yield f"modules/{path.name}", stat.S_IFREG | 0o644, (0, 0), path.read_bytes()
    order = "".join(f"{path.name}\n" for path in modules)
    yield "modules/order", stat.S_IFREG | 0o644, (0, 0), order.encode()


def _newc(inode: int, name: str, mode: int, rdev: tuple[int, int], data: bytes) -> bytes:
    """Return one member: magic, thirteen fields of eight hex digits, name and data padded to four bytes."""
    encoded = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, rdev[0], rdev[1], len(encoded), 0)
    header = b"070701" + "".join(f"{field:08X}" for field in fields).encode() + encoded
    return _padded(header) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _canonical(name: str) -> str:
    return name.replace("-", "_")


def _dependencies(module: Path) -> list[str]:
    """Read the `depends=a,b` entry of the module's .modinfo section."""
    data = module.read_bytes()
    start = data.find(b"\0depends=")
    if start < 0:
        return []
    value = data[start + len(b"\0depends=") : data.index(b"\0", start + 1)].decode()
    return [_canonical(name) for name in value.split(",") if name]
