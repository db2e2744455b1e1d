"""The cache of what guests boot from: a Debian cloud kernel and a busybox initramfs.

Everything is made once, under a lock, beside its place and renamed into it: an interrupted run leaves
nothing that a later one could take for whole.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from guestlab import initramfs
from guestlab.errors import GuestLabError

KERNEL_METAPACKAGE = "linux-image-cloud-amd64"
_KERNEL_PREFIX = "kernel-"
_PARTIAL_PREFIX = ".partial-"
_BUSYBOX = Path("/bin/busybox")
#: apt and dpkg finish in seconds; past this a mirror hangs.
_COMMAND_TIMEOUT_S = 600


def cache_dir() -> Path:
    """Return the cache folder, made if missing: $BLOCKSTORE_CACHE, or blockstore in the XDG cache."""
    configured = os.environ.get("BLOCKSTORE_CACHE")
    if configured:
        path = Path(configured)
    else:
        path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blockstore"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuestLabError(f"Cannot make the cache folder {path}: {error.strerror}.") from error
    return path.resolve()


def kernel() -> Path:
    """Return the path of a kernel image; downloads and unpacks Debian's newest cloud kernel at first use.

    The package is unpacked into the cache, never installed. A cached kernel is used without asking apt.
    """
    cached = _cached_kernel()
    if cached is not None:
        return cached
    package = _kernel_package()
    version = package.removeprefix("linux-image-")
    cached_or_built(f"{_KERNEL_PREFIX}{version}", lambda partial: _unpack_package(package, partial))
    unpacked = _cached_kernel()
    if unpacked is None:
        raise GuestLabError(f"The package {package} contains no boot/vmlinuz.")
    return unpacked


def kernel_modules_dir() -> Path:
    """Return lib/modules/VERSION of the kernel that `kernel` returns."""
    image = kernel()
    version = image.name.removeprefix("vmlinuz-")
    return image.parent.parent / "lib" / "modules" / version


def busybox_initramfs() -> Path:
    """Return the initramfs of all lab guests, rebuilt only when a part of it changes."""
    if not _BUSYBOX.exists():
        raise GuestLabError("busybox is missing: apt-get install busybox-static.")
    modules = kernel_modules_dir()
    recipe = f"{modules.name}\n{initramfs.GUEST_MODULES}\n{initramfs.INIT}\n{initramfs.CONSOLE_SHELL}"
    digest = hashlib.sha256(recipe.encode() + _BUSYBOX.read_bytes()).hexdigest()[:16]

    def build(partial: Path) -> None:
        partial.write_bytes(initramfs.build(_BUSYBOX, initramfs.module_files(modules)))

    return cached_or_built(f"initramfs-{digest}.cpio.gz", build)


def cached_or_built(name: str, build: Callable[[Path], None]) -> Path:
    """Return `name` in the cache; if it is missing, `build(path)` makes it, as a file or a folder.

    Two processes that need the same thing make it once. What a killed build left behind is removed.
    """
    final = cache_dir() / name
    if final.exists():
        return final
    with _cache_lock():
        if final.exists():
            return final
        workspace = Path(tempfile.mkdtemp(prefix=_PARTIAL_PREFIX, dir=final.parent))
        try:
            partial = workspace / name
            build(partial)
            partial.rename(final)
        except OSError as error:
            raise GuestLabError(f"Cannot make {name} in {final.parent}: {error}.") from error
        finally:
            shutil.rmtree(workspace, ignore_errors=True)
    return final


def run(arguments: Sequence[str], purpose: str, cwd: Path | None = None) -> str:
    """Run a host command and return its output; raises GuestLabError with the last line it printed."""
    try:
        # A group of its own would survive Ctrl-C: the child stays in ours.
        done = subprocess.run(
            arguments,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=_COMMAND_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GuestLabError(f"Cannot {purpose}: {error}.") from error
    if done.returncode != 0:
        lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
        raise GuestLabError(f"Cannot {purpose}: {arguments[0]} said: {lines[-1]}")
    return done.stdout


def note(line: str) -> None:
    """Tell the person at the terminal what takes long."""
    print(f"guestlab: {line}", file=sys.stderr, flush=True)


@contextmanager
def _cache_lock() -> Iterator[None]:
    """Hold the cache for building; whoever holds it may remove every partial result."""
    folder = cache_dir()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for leftover in folder.glob(f"{_PARTIAL_PREFIX}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        yield


def _cached_kernel() -> Path | None:
    images = cache_dir().glob(f"{_KERNEL_PREFIX}*/boot/vmlinuz-*")
    return max(images, key=lambda path: _version_key(path.name), default=None)


def _version_key(name: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _kernel_package() -> str:
    """Ask apt which package the metapackage stands for today."""
    for attempt in range(2):
        if attempt:
            note("apt knows no cloud kernel yet, running apt-get update")
            run(["apt-get", "update"], "update the package lists")
        try:
            listing = run(["apt-cache", "depends", KERNEL_METAPACKAGE], "ask apt for the kernel")
        except GuestLabError:
            continue
        packages: list[str] = re.findall(r"Depends: (linux-image-\d\S+)", listing)
        if packages:
            return max(packages, key=_version_key)
    raise GuestLabError(f"apt knows no package {KERNEL_METAPACKAGE}; is this a Debian with its mirrors set?")


def _unpack_package(package: str, target: Path) -> None:
    note(f"downloading {package}")
    folder = target.parent
    # apt drops to the user _apt for downloads, who may not write here; root may say that it need not.
    run(["apt-get", "-o", "APT::Sandbox::User=root", "download", package], f"download {package}", folder)
    archives = list(folder.glob("*.deb"))
    if len(archives) != 1:
        raise GuestLabError(f"apt downloaded {len(archives)} files for {package}, expected one.")
    run(["dpkg", "-x", str(archives[0]), str(target)], f"unpack {package}")


if __name__ == "__main__":  # fetch what every guest needs, as scripts/setup does
    kernel()
    busybox_initramfs()
