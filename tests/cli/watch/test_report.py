"""`blockstore report`: the page holds what `status` says, whatever files are called; the history outlives daemons."""

from __future__ import annotations

import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from blockstore.cli.types.sizes import compact_size, format_size
from blockstore.printable import printable
from blockstore.vm.observe import history
from tests.cli.runner import invoke
from tests.cli.words import CLASSES
from tests.daemon.lab import Lab, Mounted, blockstore, mixed_blocks, one_line, put, run, until

pytestmark = pytest.mark.mount

EMPTY = {"meta", "link"}
"""Elements of the page that have no end tag."""

NAMES = [
    b"<script>alert(1)<!--",
    b"\"quoted\" & 'so' onload=x",
    b"control\x1b[31m\r\nnewline\x7f",
    b"broken-\xff\xfe-utf8",
    "turned-\N{RIGHT-TO-LEFT OVERRIDE}-round".encode(),
    b"long" * 60,
]


class Page(HTMLParser):
    """Parsed; fails where tags do not match. `cells` are the rows of the VMs' table, `texts` all that is read."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self.open == [], self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("style", "script"):
            return
        self.texts.append(data)
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data if "svg" not in self.open else ""

    def count(self, tag: str) -> int:
        return sum(each == tag for each, _ in self.tags)

    def row(self, name: str) -> list[str]:
        """Of the table of VMs, without the name and the bars."""
        (found,) = [row for row in self.rows if row[0] == name and len(row) > 10]
        return found[2:]


def report(mounted: Mounted) -> Page:
    result = invoke("report", mounted.path, "-o", "-")
    assert result.returncode == 0 and not result.stderr, result
    return Page(result.stdout)


def samples_of(mounted: Mounted) -> list[history.Sample]:
    return history.read(mounted.state, mounted.total()["mounted_at"])


def expected(figures: dict[str, Any], exact: tuple[str, ...]) -> list[str]:
    return [compact_size(figures[key]) for key in exact]


def test_the_page_says_what_status_says(lab: Lab) -> None:
    mounted = lab.mount()
    for number in range(3):
        put(mounted.path / f"vm{number}", b"".join(mixed_blocks(number // 2)) * 4)
    mounted.evict()
    until(lambda: len(samples_of(mounted)) >= 2, "two samples")
    page, status = report(mounted), mounted.status()
    keys = ("logical", "zero", "shared", "patched", "compressed", "dense", "raw", "paged", "stored", "pool")
    for name, figures in [("total", status["total"]), *status["volumes"].items()]:
        row = page.row(name)
        assert row[0] == compact_size(figures["touched"]) and row[2].endswith("%"), name
        assert row[3 : 3 + len(keys)] == expected(figures, keys), name
    for key in (
        "logical",
        "touched",
        "pool",
        *CLASSES,
        "stored",
    ):
        assert any(format_size(status["total"][key]) in text for text in page.texts), key
    assert page.count("figure") == 5 and page.count("script") == 1
    assert all(word in page.texts for word in ("Saved", "Refaults per second", "Resident, by VM", "vm0", "vm1", "vm2"))
    refers = [value for _, attributes in page.tags for key, value in attributes.items() if key in ("href", "src")]
    assert refers == ["data:,"]


def test_hostile_names_do_nothing(lab: Lab) -> None:
    mounted = lab.mount()
    for name in NAMES:
        put(mounted.path / os.fsdecode(name), b"".join(mixed_blocks(1)))
    until(lambda: len(samples_of(mounted)[1:]) >= 1 and len(samples_of(mounted)[-1].volumes) == len(NAMES), "a sample")
    page = report(mounted)
    for name in NAMES:
        shown = printable(os.fsdecode(name))
        assert "\x1b" not in shown and len(page.row(shown)) == 16
        assert sum(text == shown for text in page.texts) == 2  # in the table, and in the legend of a chart
    assert page.count("script") == 1 and page.count("b") == 9  # no tag of the names is one
    assert not any(key.startswith("on") for _, attributes in page.tags for key in attributes)


def test_without_files_and_without_samples(lab: Lab) -> None:
    mounted = lab.mount()
    (mounted.state / history.NAME).unlink(missing_ok=True)
    page = report(mounted)
    assert page.count("figure") == 0
    assert any("no charts yet" in text for text in page.texts) and "The mount has no files." in page.texts


def test_history_goes_on_with_the_next_daemon(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm", b"".join(mixed_blocks(1)))
    until(lambda: len(samples_of(mounted)) >= 2, "two samples")
    first = samples_of(mounted)[0]
    mounted.kill_daemon()
    until(lambda: samples_of(mounted)[-1].restarts == 1, "a sample after the death")
    assert blockstore("reload", str(mounted.path)).returncode == 0
    until(lambda: samples_of(mounted)[-1].restarts == 2, "a sample after the reload")
    samples = samples_of(mounted)
    assert samples[0] == first and len(samples) >= 4
    assert samples[-1].volumes["vm"].touched == mounted.total()["touched"] & -1024
    page = report(mounted)
    marks = [attributes for tag, attributes in page.tags if tag == "line" and attributes.get("class") == "mark"]
    assert len(marks) == 2 * page.count("figure") == 10
    assert any("replaced 2 times" in text for text in page.texts)


def test_history_is_of_one_mount(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm", b"x")
    until(lambda: len(samples_of(mounted)) >= 1, "a sample")
    before = mounted.total()["mounted_at"]
    assert mounted.umount().returncode == 0
    again = lab.mount()
    put(again.path / "vm", b"x")
    until(lambda: len(samples_of(again)) >= 1, "a sample of the next mount")
    assert history.read(again.state, before) == []


def test_where_it_goes(shared: Mounted, tmp_path: Path) -> None:
    target, link = tmp_path / "report.html", tmp_path / "link.html"
    target.write_text("old")
    link.symlink_to(target)
    result = blockstore("report", str(shared.path), "-o", str(link))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert link.is_symlink() and "</html>" in target.read_text()
    assert [path.name for path in tmp_path.iterdir() if "html" in path.name] in (
        ["report.html", "link.html"],
        ["link.html", "report.html"],
    )


def test_where_it_cannot_go(lab: Lab) -> None:
    mounted = lab.mount()
    (lab.path / "folder.html").mkdir()
    for place in ("missing/report.html", "folder.html", "mnt.state/lock/report.html", "long" * 80 + ".html"):
        path = lab.path / place
        one_line(invoke("report", mounted.path, "-o", path), 2, path, "cannot be written")
    for name in ("report.png", "report", "report.html.gz", ".html"):
        one_line(invoke("report", mounted.path, "-o", name), 2, name, "should end in .html")
    one_line(invoke("report", mounted.path), 2, "--output")
    one_line(invoke("report", lab.path, "-o", "-"), 1, lab.path)
    command = [sys.executable, "-m", "blockstore", "report", str(mounted.path), "-o", "-"]
    full = run(["sh", "-c", 'exec "$@" > /dev/full', "sh", *command])
    one_line(full, 1, "No space left")
    assert not list(Path(lab.path).glob(".*"))
