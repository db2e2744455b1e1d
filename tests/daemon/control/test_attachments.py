"""Attachments: who has made one, and whose word holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from blockstore.daemon.control.attachments import (
    AUTO,
    BY_CONTROLLER,
    BY_RUN,
    BY_USER,
    NAME,
    OFF,
    Attachment,
    Attachments,
)


@pytest.mark.parametrize("resident", [OFF, 4096])
def test_the_controller_does_not_overrule_what_was_said_while_it_looked(tmp_path: Path, resident: int | str) -> None:
    attachments = Attachments(tmp_path)
    said = Attachment(7, 1, 2, resident, 0.01)
    attachments.attach(said._asdict())
    attachments.attach(said._replace(resident=AUTO, by=BY_CONTROLLER)._asdict())
    assert attachments.all() == Attachments(tmp_path).all() == [said._asdict()]


def test_whoever_says_it_overrules_the_controller(tmp_path: Path) -> None:
    attachments = Attachments(tmp_path)
    found = Attachment(7, 1, 2, AUTO, 0.01, by=BY_CONTROLLER)
    attachments.attach(found._asdict())
    attachments.attach(found._replace(resident=OFF, by=BY_USER)._asdict())
    assert [(each["resident"], each["by"]) for each in attachments.all()] == [(OFF, BY_USER)]


@pytest.mark.parametrize(("owned", "expected"), [(True, BY_RUN), (False, BY_USER)])
def test_an_earlier_version_did_not_write_who_it_was(tmp_path: Path, owned: bool, expected: str) -> None:
    fields = Attachment(7, 1, 2, AUTO, 0.01, owned=owned)._asdict()
    del fields["by"], fields["least_bytes"]
    (tmp_path / NAME).write_text(json.dumps([fields]))
    assert [each["by"] for each in Attachments(tmp_path).all()] == [expected]


def test_what_an_earlier_version_would_refuse_is_said_only_if_it_matters(tmp_path: Path) -> None:
    """It is asked by commands of this version until it is reloaded, and may take over again after a downgrade."""
    first = {"volume", "pid", "started", "resident", "target_share"}
    assert set(Attachment(7, 1, 2, AUTO, 0.01).fields()) == first
    assert set(Attachment(7, 1, 2, AUTO, 0.01, owned=True, by=BY_RUN).fields()) == first | {"owned"}
    whole = Attachment(7, 1, 2, AUTO, 0.01, "/cgroup", "cgroup v1", 5, by=BY_CONTROLLER, least_bytes=4096)
    assert Attachment.from_fields(whole.fields() | {"of a later version": 1}) == whole
    attachments = Attachments(tmp_path)
    attachments.attach(whole.fields())
    assert set(json.loads((tmp_path / NAME).read_text())[0]) == set(whole.fields())
    assert Attachments(tmp_path).all() == [whole._asdict()]


def test_the_limit_of_a_cgroup_is_not_read_while_it_is_lowered(tmp_path: Path) -> None:
    attachments = Attachments(tmp_path)
    there = Attachment(7, 1, 2, AUTO, 0.01, "/cgroup", "cgroup v1", -1)
    attachments.attach(there.fields())
    attachments.attach(there._replace(resident=4096, cgroup_limit_bytes=123).fields())
    assert [(each["resident"], each["cgroup_limit_bytes"]) for each in attachments.all()] == [(4096, -1)]
    attachments.attach(there._replace(pid=3, cgroup_limit_bytes=123).fields())
    assert [each["cgroup_limit_bytes"] for each in attachments.all()] == [123], "of another VM"


def test_an_earlier_version_asks_to_leave_a_vm_alone(tmp_path: Path) -> None:
    attachments = Attachments(tmp_path)
    attachments.let_alone(7)
    assert not attachments.all()
    attachments.attach(Attachment(7, 1, 2, AUTO, 0.01, owned=True, by=BY_RUN).fields())
    attachments.let_alone(7)
    assert [(each["resident"], each["owned"], each["by"]) for each in attachments.all()] == [(OFF, True, BY_RUN)]
