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
#: What all copies are copies of.
_TEMPLATE = "/work/.template"
_FILE_MIB = 4
_TIMEOUT_S = 300

#: awk numbers and varies what a guest knows about itself, so that blocks are alike but not the same, as in
#: logs. It makes half a MiB a second under TCG; the rest of a file is the same lines in other letters.
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_TEXT_SEED = "cat /proc/cpuinfo /proc/meminfo /proc/kallsyms /proc/vmstat /proc/mounts | head -n 6000; dmesg"
_TEXT_AWK = (
    "{ line[NR] = $0 } END { for (pass = 0; bytes < want; pass++) for (i = 1; i <= NR && bytes < want; i++) "
    '{ bytes += length(line[i]) + 16; printf "%06d run%s %s\\n", i * 7 + pass, tag, line[i] } }'
)


def fill(guest: Guest, mb: int, kind: Kind = "text") -> None:
    """Write about `mb` MiB of new files of this kind into the guest's RAM, and note their sums.

    random: what cannot be compressed or shared. text: log-like lines. copies: one text of 1 MiB, many
    times, each file with a line of its own at the end. Can be called again; every call adds files.
    """
    if mb <= 0:
        raise GuestLabError(f"fill needs a positive number of MiB, not {mb}.")
    if kind not in KINDS:
        raise GuestLabError(f"fill knows the kinds {', '.join(KINDS)}, not {kind!r}.")
    folder = guest.command(f"mktemp -d /work/{kind}.XXXXXX").strip()
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
        guest.command(f"head -c 1500000 {path} | sort -r >{target}.sorted", _TIMEOUT_S)
        guest.command(
            f"head -c 1500000 {path} | awk '{{ n[$3]++ }} END {{ for (w in n) print w, n[w] }}'"
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
        raise GuestLabError(
            f"Guest {guest.name} has no sums to check: call fill first. {report.strip()[:200]}"
        )
    return [line.split(":")[0] for line in lines if line.endswith(": FAILED")]


def verified_files(guest: Guest) -> int:
    """Return how many files `verify` checks."""
    return int(guest.command(f"wc -l <{_SUMS}"))


def _write_file(guest: Guest, path: str, size_mib: int, number: int, kind: Kind) -> None:
    if kind == "random":
        script = f"head -c {size_mib << 20} /dev/urandom >{path}"
    elif kind == "text":
        script = f"{_lines(f'{guest.name}-{number}')} >{path}"
        for letters in range(1, size_mib):
            script += f"; head -c {1 << 20} {path} | tr {_ALPHABET} {_rotated(letters)} >{path}.next"
            script += f"; cat {path}.next >>{path}"
        script += f"; rm -f {path}.next"
    else:
        script = f"[ -f {_TEMPLATE} ] || {_lines('copy')} >{_TEMPLATE}"
        script += f"; for i in $(seq {size_mib}); do cat {_TEMPLATE}; done >{path}"
        script += f"; echo copy {number} in {path} >>{path}"
    guest.command(script, _TIMEOUT_S)


def _lines(tag: str) -> str:
    """Return the shell command that prints 1 MiB of text."""
    return f"{{ {_TEXT_SEED}; }} | awk -v want={1 << 20} -v tag={tag} '{_TEXT_AWK}' | head -c {1 << 20}"


def _rotated(letters: int) -> str:
    return _ALPHABET[letters:] + _ALPHABET[:letters]


def _note_sums(guest: Guest, folder: str) -> None:
    guest.command(f"sha256sum {folder}/* >>{_SUMS}", _TIMEOUT_S)
