"""Domains: what is below one top-level directory shares nothing with what is below another one."""

from __future__ import annotations

import numpy as np
import pytest

from blockstore.daemon.namespace.names_copy import copied_names
from blockstore.store.state.geometry import ENCODING_MASK, ID_MASK, PATCHED
from blockstore.store.state.home import CopiedHome, DirectoryHome
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.store import Store
from tests.cli.runner import invoke
from tests.daemon.lab import Lab, mixed_blocks, put
from tests.store.columns import column
from tests.store.material import half, near

pytestmark = pytest.mark.mount

CONTENT = b"".join(mixed_blocks(9)) + b"".join(half(seed) for seed in range(40))
ALIKE = b"".join(near(half(seed), seed) for seed in range(40))


def test_two_domains_with_the_same_content_store_it_twice(lab: Lab) -> None:
    mounted = lab.mount()
    for tenant in ("red", "blue"):
        (mounted.path / tenant).mkdir()
    put(mounted.path / "red/vm1", CONTENT)
    once = mounted.total()["stored"]
    put(mounted.path / "red/vm2", CONTENT)
    assert mounted.total()["stored"] == once, "inside a domain it is shared"
    put(mounted.path / "blue/vm1", CONTENT)
    put(mounted.path / "vm1", CONTENT)
    total = mounted.total()
    # What is patched against what depends on the domain's key, so that the sums differ a little.
    assert 2.8 * once < total["stored"] < 3.2 * once
    for tenant in ("red", "blue"):
        put(mounted.path / tenant / "alike", ALIKE)
        assert mounted.status()["volumes"][f"{tenant}/alike"]["patched_blocks"] > 30
    assert mounted.umount().returncode == 0
    check_nothing_crosses(lab)


def check_nothing_crosses(lab: Lab) -> None:
    """In the state itself: no row is mapped from two domains, no patch refers to another one's row."""
    state = lab.path / "mnt.state"
    store = Store(CopiedHome(DirectoryHome(state)), MINIMUM_LIMIT_BYTES, look=True)
    with copied_names(state) as names:
        assert len(names.files()) == len(store.volumes) == 6
    rows, mapped = store.rows, dict[int, set[int]]()
    for volume in store.volumes.values():
        for entry in volume.entries(0, volume.blocks):
            mapped.setdefault(volume.domain.index, set()).add(entry & ID_MASK)
    domains = [found - {0, 1, 2} for found in mapped.values()]
    assert len(domains) == 3 and all(len(found) > 90 for found in domains)
    assert not domains[0] & domains[1] and not domains[1] & domains[2] and not domains[0] & domains[2]
    patched = np.flatnonzero((column(rows.where) & np.uint64(ENCODING_MASK)) == PATCHED)
    assert len(patched) and (column(rows.domain)[patched] == column(rows.domain)[column(rows.reference)[patched]]).all()
    assert len(set(store.domains.seeds().values())) == 3, "each domain has a key of its own"
    store.close()


def test_modes_of_everything_that_holds_data(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm1", CONTENT)
    assert invoke("status", str(mounted.path)).returncode == 0
    assert mounted.state.stat().st_mode & 0o777 == 0o700
    for path in mounted.state.iterdir():
        if path.name not in ("daemon.log", "daemon.handover", "daemon.supervisor"):  # no data, in a folder of mode 0700
            assert path.stat().st_mode & 0o077 == 0 or path.name.startswith("names.sqlite"), path
