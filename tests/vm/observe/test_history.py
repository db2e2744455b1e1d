"""The history of a mount: within its limits, whole after damage, and of one mount only."""

from __future__ import annotations

import errno
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import MountError
from blockstore.vm.observe import history
from blockstore.vm.observe.history import Figures, Recorder, Sample, append, decode, encode, read

MOUNTED_AT = 1_700_000_000.123456
MOUNT = Mount(Path("/nowhere"), "0:1", Path("/nowhere"))

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=14)
        | st.dictionaries(st.sampled_from(["time", "mounted_at", "interval", "restarts", "total", "volumes"]), inner)
    ),
    max_leaves=30,
).map(lambda value: json.dumps(value).encode())


def figures(number: int = 1) -> Figures:
    sizes = [number * place << 12 for place in range(1, 14)]
    return Figures._make([*sizes, number])


def sample(number: int = 0, volumes: int = 1, mounted_at: float = MOUNTED_AT, name: str = "vm") -> Sample:
    of_volumes = {f"{name}{each}": figures(each) for each in range(volumes)}
    return Sample(mounted_at + 5.0 * number, mounted_at, history.FIRST_INTERVAL_S, 0, figures(volumes), of_volumes)


def history_of(state: Path) -> bytes:
    return (state / history.NAME).read_bytes()


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, MOUNTED_AT) == []
    for number in range(3):
        assert append(tmp_path / history.NAME, sample(number)) == history.FIRST_INTERVAL_S
    samples = read(tmp_path, MOUNTED_AT)
    assert [round(each.time_s - MOUNTED_AT) for each in samples] == [0, 5, 10]
    assert samples[0].total == figures(1) and samples[0].volumes == {"vm0": figures(0)}
    assert samples[0].total.touched == sum(samples[0].total[1:8])
    assert samples[0].total.footprint == sum(samples[0].total[9:13])
    assert (tmp_path / history.NAME).stat().st_mode & 0o777 == 0o600


def test_snapshots_are_kept_and_older_samples_have_none(tmp_path: Path) -> None:
    one = sample()._replace(snapshots=history.Snapshots(5, 3 << 20, 4 << 20))
    kept = decode(encode(one))
    assert kept is not None and kept.snapshots == one.snapshots
    older = {key: value for key, value in json.loads(encode(one)).items() if key != "snapshots"}
    assert decode(json.dumps(older).encode()) == kept._replace(snapshots=history.Snapshots())


def test_a_history_of_another_mount_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / history.NAME
    for number in range(history.MAXIMUM_SAMPLES + 3):
        append(path, sample(number))
    assert read(tmp_path, MOUNTED_AT + 1) == []
    assert append(path, sample(mounted_at=MOUNTED_AT + 1)) == history.FIRST_INTERVAL_S
    assert read(tmp_path, MOUNTED_AT) == [] and len(read(tmp_path, MOUNTED_AT + 1)) == 1
    assert history_of(tmp_path).count(b"\n") == 1


def test_a_full_history_gets_coarser(tmp_path: Path) -> None:
    path, now_s, interval_s = tmp_path / history.NAME, 0.0, history.FIRST_INTERVAL_S
    while interval_s < 16 * history.FIRST_INTERVAL_S:
        before_s, interval_s = interval_s, append(path, sample()._replace(time_s=MOUNTED_AT + now_s))
        now_s += interval_s
        if interval_s == before_s and round(now_s / interval_s) % 64:
            continue
        samples = read(tmp_path, MOUNTED_AT)
        assert len(samples) <= history.MAXIMUM_SAMPLES
        assert samples[0].time_s == round(MOUNTED_AT, 3)
        assert samples[-1].time_s == round(MOUNTED_AT + now_s - interval_s, 3)
    gaps = [after.time_s - before.time_s for before, after in pairwise(samples)]
    assert len(samples) >= history.MAXIMUM_SAMPLES // 2 and max(gaps) <= 2 * interval_s
    assert not path.with_name(history.NAME + ".new").exists()


@pytest.mark.long
@settings(max_examples=5)
@given(
    st.lists(st.tuples(st.integers(0, 300), st.sampled_from(["v", "a long name " * 30, "\udcff<" * 700])), min_size=1)
)
def test_never_larger_than_its_limits(tmp_path_factory: pytest.TempPathFactory, shapes: list[tuple[int, str]]) -> None:
    path = tmp_path_factory.mktemp("state") / history.NAME
    for number in range(150):
        volumes, name = shapes[number % len(shapes)]
        append(path, sample(number, volumes, name=name))
        assert path.stat().st_size <= history.MAXIMUM_BYTES
    samples = read(path.parent, MOUNTED_AT)
    assert 64 <= len(samples) <= history.MAXIMUM_SAMPLES
    assert all(len(line) <= history.MAXIMUM_LINE_BYTES for line in path.read_bytes().splitlines(keepends=True))


def test_of_many_vms_the_largest_are_kept() -> None:
    kept = decode(encode(sample(volumes=1000)))
    assert kept is not None and 80 < len(kept.volumes) < 200
    assert set(kept.volumes) == {f"vm{number}" for number in range(1000 - len(kept.volumes), 1000)}
    assert kept.total == figures(1000)


def test_a_name_that_has_no_room_costs_no_other() -> None:
    volumes = {name: figures(size) for size, name in ((3, "\udcff" * 4000), (2, "vm1"), (1, "vm2"))}
    found = decode(encode(sample()._replace(volumes=volumes)))
    assert found is not None and list(found.volumes) == ["vm1", "vm2"]


def test_a_line_that_was_cut_off_costs_one_sample(tmp_path: Path) -> None:
    path = tmp_path / history.NAME
    for number in range(3):
        append(path, sample(number))
    os.truncate(path, path.stat().st_size - 20)
    assert len(read(tmp_path, MOUNTED_AT)) == 2
    append(path, sample(3))
    assert [round(each.time_s - MOUNTED_AT) for each in read(tmp_path, MOUNTED_AT)] == [0, 5, 15]


@pytest.mark.long
@settings(max_examples=200)
@given(st.data())
def test_damage_costs_no_more_than_the_lines_it_is_in(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("state") / history.NAME
    for number in range(10):
        append(path, sample(number, volumes=3))
    content = bytearray(path.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=300))
    hit = {content[:place].count(b"\n") for place in range(start, min(start + len(damage), len(content)))}
    before = content[:]
    content[start : start + len(damage)] = damage
    path.write_bytes(content)
    # What was a line's end and is none now takes the next line along.
    hit |= {line + 1 for line in hit if before.splitlines(keepends=True)[line] not in content}
    whole = {sample(number).time_s for number in range(10) if number not in hit}
    found = {each.time_s for each in read(path.parent, MOUNTED_AT)}
    assert {round(time_s, 3) for time_s in whole} <= found
    append(path, sample(10))
    assert read(path.parent, MOUNTED_AT)[-1].time_s >= MOUNTED_AT + 49


@pytest.mark.long
@settings(max_examples=300)
@given(st.binary(max_size=200) | ANY_JSON)
def test_nonsense_is_no_sample(line: bytes) -> None:
    assert decode(line) is None


CANNOT_BE: dict[str, list[object]] = {
    "time": [float("nan"), float("inf"), -1, 1e300, 10**400, None, []],
    "interval": ["soon", -1],
    "restarts": [-1, 1 << 70, "1", None],
    "total": [[], [1] * 13, [1] * 15, [-1] * 14, [1.5] * 14, ["1"] * 14, [True] * 14, {}, None],
    "volumes": [[], None, {"vm": 1}, {"vm": [1]}],
    "snapshots": [[], None, [1] * 4, [-1, 0, 0], [1.5, 0, 0], {}],
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in CANNOT_BE.items() for value in values])
def test_a_field_that_cannot_be(key: str, value: object) -> None:
    fields = json.loads(encode(sample()))
    assert decode(json.dumps(fields).encode()) is not None
    assert decode(json.dumps(fields | {key: value}).encode()) is None


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / history.NAME
    path.write_bytes(encode(sample()))
    os.truncate(path, 1 << 40)
    assert len(read(tmp_path, MOUNTED_AT)) == 1
    append(path, sample(1))
    assert path.stat().st_size < history.MAXIMUM_LINE_BYTES


class Play:
    """A mount that is not there, and a clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.takes_s = 0.0
        self.error: Exception | None = None
        self.asked_at: list[float] = []
        monkeypatch.setattr(history, "observe", self._observe)
        monkeypatch.setattr("time.monotonic", lambda: self.now_s)

    def _observe(self, mount: Mount) -> tuple[dict[str, Any], dict[str, Any]]:
        self.asked_at.append(self.now_s)
        self.now_s += self.takes_s
        if self.error is not None:
            raise self.error
        total = {**figures()._asdict(), "mounted_at": MOUNTED_AT, "restarts": 0}
        return {"total": total, "volumes": {}, "snapshots": {"count": 0, "unique": 0, "footprint": 0}}, {}

    def tick(self, recorder: Recorder, seconds: float) -> list[float]:
        """As the controller does, once a second; when samples were taken, counted from now."""
        start_s, self.asked_at = self.now_s, []
        while self.now_s < start_s + seconds:
            recorder.sample_if_due(MOUNT)
            self.now_s += 1
        return [round(at - start_s) for at in self.asked_at]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    return Play(monkeypatch)


def test_samples_are_taken_now_and_then(tmp_path: Path, play: Play) -> None:
    recorder = Recorder(tmp_path)
    assert play.tick(recorder, 12) == [0, 5, 10]
    play.takes_s = 0.5
    assert play.tick(recorder, 120) == [3, 54, 104]  # a hundred times half a second
    assert len(read(tmp_path, MOUNTED_AT)) == 6
    for number in range(history.MAXIMUM_SAMPLES):
        append(tmp_path / history.NAME, sample(number))
    play.takes_s = 0.0
    assert play.tick(Recorder(tmp_path), 21) == [0, 10, 20]  # the next controller's; the interval is in the file


@pytest.mark.parametrize("error", [MountError("gone"), OSError(5, "EIO"), KeyError("refaults")])
def test_no_error_reaches_the_controller(
    tmp_path: Path, play: Play, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    play.error = error
    recorder = Recorder(tmp_path)
    assert play.tick(recorder, 12) == [0, 5, 10]
    said = capsys.readouterr().err
    assert said.count("\n") == (1 if isinstance(error, KeyError) else 0)
    play.error = None
    assert play.tick(recorder, 12) == [3, 8]
    assert len(read(tmp_path, MOUNTED_AT)) == 2


def test_a_full_file_system_loses_samples_and_nothing_else(
    tmp_path: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, path = Recorder(tmp_path), tmp_path / history.NAME
    for number in range(history.MAXIMUM_SAMPLES):
        append(path, sample(number))
    before = path.read_bytes()

    def write(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", write)
    play.takes_s = 0.2
    assert play.tick(recorder, 50) == [0, 20, 40]  # no more often than it would be otherwise
    monkeypatch.undo()
    assert path.read_bytes() == before and os.listdir(tmp_path) == [history.NAME]
    assert append(path, sample(1000)) == 2 * history.FIRST_INTERVAL_S
