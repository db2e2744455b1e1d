"""The mount under `fio --verify`, with the engines that VMs and their tools resemble, in both modes."""

from __future__ import annotations

import shutil

import pytest

from tests.daemon.lab import Mounted, run

ENGINES = {
    "mmap": ["--ioengine=mmap", "--bs=4k", "--fsync=4096"],
    "psync": ["--ioengine=psync", "--bsrange=512-64k", "--bs_unaligned=1"],
    "libaio": ["--ioengine=libaio", "--direct=1", "--iodepth=16", "--bsrange=4k-256k"],
}
SIZES = {"mmap": "32M", "psync": "48M", "libaio": "64M"}


@pytest.mark.mount
@pytest.mark.skipif(shutil.which("fio") is None, reason="fio is not installed")
@pytest.mark.parametrize("engine", list(ENGINES))
def test_verify(mounted: Mounted, engine: str) -> None:
    common = [
        "--name=verify",
        f"--filename={mounted.path}/file",
        f"--size={SIZES[engine]}",
        "--rw=randrw",
        "--rwmixread=30",
    ]
    checks = ["--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--invalidate=1", "--end_fsync=1"]
    contents = ["--buffer_compress_percentage=50", "--refill_buffers", "--randseed=1", "--allow_file_create=1"]
    result = run(["fio", *common, *ENGINES[engine], *checks, *contents, "--aux-path=/tmp"])
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    assert "verify: bad" not in result.stdout + result.stderr
    # Once more from the store alone, without the page cache.
    mounted.evict()
    again = run(["fio", *common, *ENGINES[engine], *checks, *contents, "--verify_only=1", "--aux-path=/tmp"])
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-3000:]
