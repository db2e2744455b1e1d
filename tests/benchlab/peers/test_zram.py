"""zram: borrowed only when it is free, and put back whatever happens. On a folder that looks like the device's."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchlab.errors import BenchError
from benchlab.peers import zram
from benchlab.peers.zram import Zram

SIZE = 16 << 20


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    folder = tmp_path / "zram0"
    folder.mkdir()
    (folder / "disksize").write_text("0\n")
    (folder / "comp_algorithm").write_text("lzo [lzo-rle] lz4 zstd\n")
    (folder / "reset").write_text("")
    return folder


@pytest.fixture
def swaps(tmp_path: Path) -> Path:
    path = tmp_path / "swaps"
    path.write_text("Filename\tType\tSize\tUsed\tPriority\n")
    return path


def values(settings: Path) -> dict[str, str]:
    return {path.name: path.read_text().strip() for path in settings.iterdir()}


def test_set_up_and_put_back(settings: Path, swaps: Path) -> None:
    with Zram(SIZE, settings, swaps) as device:
        assert device.path == Path("/dev/zram0")
        assert values(settings) == {"disksize": str(SIZE), "comp_algorithm": "lz4", "reset": ""}
    assert values(settings)["reset"] == "1"
    assert values(settings)["comp_algorithm"] == "lzo-rle"


@pytest.mark.parametrize("error", [BenchError("late"), OSError(5, "broken"), KeyboardInterrupt()])
def test_put_back_after_errors(settings: Path, swaps: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), Zram(SIZE, settings, swaps):
        raise error
    assert values(settings)["reset"] == "1"
    assert values(settings)["comp_algorithm"] == "lzo-rle"


def test_in_use_is_not_touched(settings: Path, swaps: Path) -> None:
    (settings / "disksize").write_text("4096\n")
    before = values(settings)
    with pytest.raises(BenchError, match="in use"), Zram(SIZE, settings, swaps):
        pass
    assert values(settings) == before


def test_swap_is_not_touched(settings: Path, swaps: Path) -> None:
    swaps.write_text(swaps.read_text() + "/dev/zram0\tpartition\t1024\t0\t-2\n")
    before = values(settings)
    with pytest.raises(BenchError, match="in use"), Zram(SIZE, settings, swaps):
        pass
    assert values(settings) == before


def test_not_there(tmp_path: Path, swaps: Path) -> None:
    with pytest.raises(BenchError, match="no zram0"), Zram(SIZE, tmp_path / "zram0", swaps):
        pass


def test_no_lz4(settings: Path, swaps: Path) -> None:
    (settings / "comp_algorithm").write_text("[lzo]\n")
    with pytest.raises(BenchError, match="lz4"), Zram(SIZE, settings, swaps):
        pass
    assert values(settings)["reset"] == ""


def refuse(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Writes of this setting fail, as of a device that is held open."""
    write = Zram._write

    def refusing(self: Zram, setting: str, value: str) -> None:
        if setting == name:
            raise BenchError(f"{name} is busy")
        write(self, setting, value)

    monkeypatch.setattr(Zram, "_write", refusing)


def test_somebody_else_was_faster(settings: Path, swaps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, "disksize")
    with pytest.raises(BenchError, match="disksize is busy"), Zram(SIZE, settings, swaps):
        pass
    assert values(settings)["reset"] == "", "the device of somebody else must not be reset"
    assert values(settings)["comp_algorithm"] == "lzo-rle"


def test_reset_that_fails_is_said(settings: Path, swaps: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zram, "_RESET_S", 0.2)
    refuse(monkeypatch, "reset")
    with pytest.raises(BenchError, match="reset is busy"), Zram(SIZE, settings, swaps):
        pass


def test_reset_that_fails_does_not_hide_an_interrupt(
    settings: Path, swaps: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(zram, "_RESET_S", 0.2)
    refuse(monkeypatch, "reset")
    with pytest.raises(KeyboardInterrupt), Zram(SIZE, settings, swaps):
        raise KeyboardInterrupt
    assert "reset is busy" in capsys.readouterr().err
