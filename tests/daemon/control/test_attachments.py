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
