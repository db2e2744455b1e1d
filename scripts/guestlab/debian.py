"""The disk image of the Debian guests: a stock bookworm with systemd and the packages of all services.

One image serves every guest, as clones of one template do; guests write to throw-away overlays.
"""

import hashlib
import shutil
import sys
from pathlib import Path

from guestlab import assets
from guestlab.errors import GuestLabError
from guestlab.initramfs import CONSOLE_SHELL

SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
IMAGE_SIZE = "2G"

#: What a small server has in any case, then what the loads use.
PACKAGES = (
    *("systemd-sysv", "systemd-timesyncd", "dbus", "udev", "kmod", "login", "procps", "iproute2"),
    *("cron", "rsyslog", "logrotate", "openssh-server", "less", "man-db", "vim-tiny"),
    *("nginx-light", "apache2-utils", "gunicorn", "python3-flask"),
    *("gcc", "libc6-dev", "make", "git", "openssh-client"),
    *("postgresql", "redis-server", "redis-tools", "sqlite3", "python3", "perl"),
)

_SHELL_PATH = "usr/local/lib/guestlab/console"
_SHELL_UNIT = f"""[Unit]
Description=Guest lab console on ttyS0
After=multi-user.target

[Service]
Environment=HOME=/root TERM=dumb
WorkingDirectory=/root
ExecStart=/{_SHELL_PATH}
StandardInput=tty
StandardOutput=tty
TTYPath=/dev/ttyS0
Restart=always

[Install]
WantedBy=multi-user.target
"""
#: Services that only the guest that is named after them runs; its load starts them.
_NOT_AT_BOOT = ("nginx.service", "postgresql.service", "redis-server.service")


def debian_image() -> Path:
    """Return the raw ext4 image; the first call builds it in one to three minutes, as root."""
    recipe = "\n".join((SUITE, IMAGE_SIZE, *PACKAGES, *_NOT_AT_BOOT, _SHELL_UNIT, CONSOLE_SHELL))
    digest = hashlib.sha256(recipe.encode()).hexdigest()[:16]
    return assets.cached_or_built(f"debian-{digest}.ext4", _build_image)


def _build_image(image: Path) -> None:
    if shutil.which("debootstrap") is None:
        assets.note("installing debootstrap")
        assets.run(["apt-get", "install", "-y", "--no-install-recommends", "debootstrap"], "install debootstrap")
    assets.note(f"building a Debian {SUITE} image, once, about two minutes")
    root = image.parent / "root"
    # In namespaces of its own, the /proc that debootstrap mounts and what a package may start go away with
    # it, also when it is killed; the cache's clean-up must never meet either.
    assets.run(
        [
            *("unshare", "--mount", "--pid", "--fork", "--kill-child"),
            *("debootstrap", "--variant=minbase"),
            *(f"--include={','.join(PACKAGES)}", SUITE, str(root), MIRROR),
        ],
        "bootstrap Debian (it needs root and a mirror)",
    )
    _configure(root)
    assets.run(
        ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", str(root), str(image), IMAGE_SIZE],
        "make the ext4 image",
    )


def _configure(root: Path) -> None:
    for package in (root / "var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    (root / "etc/fstab").write_text("/dev/vda / ext4 errors=remount-ro 0 1\n")
    (root / "etc/hostname").write_text("guest\n")
    shell = root / _SHELL_PATH
    shell.parent.mkdir(parents=True, exist_ok=True)
    shell.write_text(CONSOLE_SHELL)
    shell.chmod(0o755)
    units = root / "etc/systemd/system"
    (units / "guestlab-console.service").write_text(_SHELL_UNIT)
    wanted = units / "multi-user.target.wants"
    wanted.mkdir(exist_ok=True)
    (wanted / "guestlab-console.service").symlink_to("/etc/systemd/system/guestlab-console.service")
    (units / "serial-getty@ttyS0.service").symlink_to("/dev/null")
    for unit in _NOT_AT_BOOT:
        (wanted / unit).unlink(missing_ok=True)


if __name__ == "__main__":
    try:
        print(debian_image())
    except GuestLabError as error:
        sys.exit(f"guestlab: {error}")
