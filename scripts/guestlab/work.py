"""Real work in a busybox guest, whose results can be checked inside that guest at any later time.

Files go to the guest's tmpfs, that is, its RAM. The sha256 of each is taken in the guest when it is
written and kept there, so that a wrong byte anywhere between guest and host memory shows in `verify`.
"""

from typing import Literal, get_args

from guestlab.errors import GuestLabError
from guestlab.guest import Guest

Kind = Literal["random", "text", "copies"]

KINDS: tuple[Kind, ...] = get_args(Kind)
#: Sums are kept beside the files, one line a file, in the format of sha256sum -c.
_SUMS = "/work/SUMS"
_FILE_MIB = 4
_COMPUTE_BYTES = 500_000
_TIMEOUT_S = 300

#: What all text is made from: the first part of what a guest knows about itself.
_SEED = "/work/.seed"
_SEED_BYTES = 512 << 10
_BASE = "/work/.base"
_SEED_SOURCES = "/proc/cpuinfo /proc/meminfo /proc/vmstat /proc/mounts /proc/kallsyms"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"


def fill(guest: Guest, mb: int, kind: Kind = "text") -> None:
    """Write about `mb` MiB of new files of this kind into the guest's RAM, and note their sums.

    random: what cannot be compressed or shared. text: log-like lines. copies: one text of 512 KiB,
    many times, each file with a line of its own at the end. Can be called again; every call adds files.
    """
    if mb <= 0:
        raise GuestLabError(f"fill needs a positive number of MiB, not {mb}.")
    if kind not in KINDS:
        raise GuestLabError(f"fill knows the kinds {', '.join(KINDS)}, not {kind!r}.")
    folder = guest.command(f"mktemp -d /work/{kind}.XXXXXX").strip()
    guest.command(f"[ -f {_SEED} ] || {{ dmesg; cat {_SEED_SOURCES}; }} | head -c {_SEED_BYTES} >{_SEED}")
    sizes_mib = [_FILE_MIB] * (mb // _FILE_MIB) + ([mb % _FILE_MIB] if mb % _FILE_MIB else [])
    for number, size_mib in enumerate(sizes_mib):
        _write_file(guest, f"{folder}/{number:04d}", size_mib, number, kind)
    _note_sums(guest, folder)


def compute(guest: Guest) -> None:
    """Sort, count and compress the text files in the guest; the results are noted as files, too."""
    folder = guest.command("mktemp -d /work/results.XXXXXX").strip()
    texts = guest.command("ls /work/text.*/* /work/copies.*/* 2>/dev/null | head -n 1", check=False).split()
    if not texts:
        raise GuestLabError("compute needs text in the guest: call fill with kind text or copies first.")
    for number, path in enumerate(texts):
        target = f"{folder}/{number}"
        guest.command(f"head -c {_COMPUTE_BYTES} {path} | sort -r >{target}.sorted", _TIMEOUT_S)
        guest.command(
            f"head -c {_COMPUTE_BYTES} {path} | awk '{{ n[$3]++ }} END {{ for (w in n) print w, n[w] }}'"
            f" | sort >{target}.counts",
            _TIMEOUT_S,
        )
        guest.command(f"gzip -c {path} >{target}.gz && gunzip -t {target}.gz", _TIMEOUT_S)
    _note_sums(guest, folder)


def fill_mixed(guest: Guest, mb: int) -> None:
    """Fill about `mb` MiB, a quarter random, half text, a quarter copies, and compute on it."""
    quarter = max(mb // 4, 1)
    fill(guest, quarter, "random")
    fill(guest, 2 * quarter, "text")
    fill(guest, quarter, "copies")
    compute(guest)


def verify(guest: Guest) -> list[str]:
    """Check every noted sum inside the guest; returns the files that differ: none if all is well."""
    report = guest.command(f"sha256sum -c {_SUMS} 2>&1", _TIMEOUT_S, check=False)
    lines = report.strip().splitlines()
    if not any(line.endswith(": OK") for line in lines):
        raise GuestLabError(f"Guest {guest.name} has no sums to check: call fill first. {report.strip()[:200]}")
    return [line.split(":")[0] for line in lines if line.endswith(": FAILED")]


def verified_files(guest: Guest) -> int:
    """Return how many files `verify` checks."""
    return int(guest.command(f"wc -l <{_SUMS}"))


def _write_file(guest: Guest, path: str, size_mib: int, number: int, kind: Kind) -> None:
    # What is done here is what busybox does quickly under TCG: tr, cat and dd, not awk or head -c.
    pieces = (size_mib << 20) // _SEED_BYTES
    if kind == "random":
        script = f"dd if=/dev/urandom of={path} bs=1M count={size_mib} 2>/dev/null"
    elif kind == "text":
        # Numbered and marked lines, alike in every file but not the same, as in logs; and those again in
        # other letters.
        script = f"cat -n {_SEED} | sed 's/$/ run {guest.name}-{number}/'"
        script += f" | head -c {_SEED_BYTES} >{_BASE}; cat {_BASE} >{path}"
        for letters in range(1, pieces):
            script += f"; tr {_ALPHABET} {_rotated(letters)} <{_BASE} >>{path}"
    else:
        script = f"for i in $(seq {pieces}); do cat {_SEED}; done >{path}"
        script += f"; echo copy {number} in {path} >>{path}"
    guest.command(script, _TIMEOUT_S)


def _rotated(letters: int) -> str:
    return _ALPHABET[letters:] + _ALPHABET[:letters]


def _note_sums(guest: Guest, folder: str) -> None:
    guest.command(f"sha256sum {folder}/* >>{_SUMS}", _TIMEOUT_S)
