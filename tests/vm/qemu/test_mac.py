"""Network addresses of forks."""

from __future__ import annotations

from blockstore.vm.qemu import mac


def test_stable_different_and_locally_administered() -> None:
    found = [mac.of(f"vm1-{number}") for number in range(1, 1001)]
    assert found == [mac.of(f"vm1-{number}") for number in range(1, 1001)] and len(set(found)) == 1000
    assert all(each.startswith("02:") and len(bytes.fromhex(each.replace(":", ""))) == 6 for each in found)
