"""How many files there can be, by descriptors and by mappings."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.daemon.fuse.device import spare_pipes
from blockstore.daemon.namespace import file_limit
from blockstore.daemon.namespace.file_limit import OWN_DESCRIPTORS, OWN_MAPPINGS, SPARE_DESCRIPTORS
from blockstore.errors import MountError
from blockstore.store.state.home import DirectoryHome
from blockstore.store.volume import file_name

MANY = 10**6


@pytest.fixture
def mappings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What stands for vm.max_map_count; there are many descriptors."""
    path = tmp_path / "max_map_count"
    path.write_text(f"{MANY}\n")
    monkeypatch.setattr(file_limit, "MAPPINGS_FILE", path)
    monkeypatch.setattr(file_limit, "descriptor_limit", lambda: MANY)
    return path


def test_the_smaller_limit_counts(mappings: Path) -> None:
    assert file_limit.files_left(0) == MANY - OWN_MAPPINGS
    assert file_limit.files_left(MANY) == 0
    mappings.write_text(str(2 * MANY))
    assert file_limit.files_left(10) == MANY - OWN_DESCRIPTORS - 2 * spare_pipes(MANY) - SPARE_DESCRIPTORS - 10


def test_no_file_is_made_when_mappings_are_short(mappings: Path) -> None:
    mappings.write_text("65530\n")
    most = file_limit.files_left(0)
    assert file_limit.lack(most - 1) == ""
    assert "65530 mappings" in file_limit.lack(most) and "vm.max_map_count" in file_limit.lack(most)


def test_a_state_with_too_many_files_is_refused(mappings: Path, tmp_path: Path) -> None:
    home = DirectoryHome(tmp_path / "state")
    for number in range(20):
        (tmp_path / "state" / file_name(number)).touch()
    file_limit.check(home)
    mappings.write_text(f"{OWN_MAPPINGS + 20}\n")
    file_limit.check(home)  # as many as could be made
    mappings.write_text(f"{OWN_MAPPINGS + 18}\n")
    with pytest.raises(MountError, match=r"the 20 files .* vm\.max_map_count"):
        file_limit.check(home)
    home.close()
