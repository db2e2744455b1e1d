"""What `mount` was told, on its way to a daemon: also from the supervisor of another version."""

from __future__ import annotations

import json

from blockstore.daemon.options import ANY_CORE, MountOptions

OPTIONS = MountOptions("/mnt", "/state", 64 << 20, lane_cpu=ANY_CORE, watchdog_s=0.5)


def test_arrive_as_they_were() -> None:
    assert MountOptions.from_json(OPTIONS.to_json()) == OPTIONS


def test_of_an_earlier_version_without_those_that_are_gone_and_with_defaults_for_new_ones() -> None:
    told = json.loads(OPTIONS.to_json())
    del told["spill"]
    assert MountOptions.from_json(json.dumps({**told, "lane": True})) == OPTIONS
