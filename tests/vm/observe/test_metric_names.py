"""The names of the metrics: by Prometheus' conventions, in docs/metrics.md, and no others in dashboard and alerts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families as parse

from tests.daemon.lab import PROJECT, Lab, noisy, put, run
from tests.vm.observe.test_metrics import get, mount

DASHBOARD: Final = PROJECT / "scripts/grafana/blockstore.json"
ALERTS: Final = PROJECT / "scripts/prometheus/alerts.yml"
PAGE: Final = PROJECT / "docs/metrics.md"

NAME: Final = re.compile(r"\bblockstore_[a-z_]+\b")
UNITS: Final = ("bytes", "seconds", "ratio")
THINGS: Final = ("requests", "reads", "blocks", "pieces", "snapshots")
COUNTED: Final = (*THINGS, "up", "failing", "replaceable", "orphaned", "lost")
"""What a gauge without a unit may be: a number of things, or a yes or no."""


class Named(NamedTuple):
    """A metric as users write it (`_total` and `_info` included), its type, and labels of its samples."""

    name: str
    kind: str
    labels: frozenset[str]


def named(exposition: str) -> Iterator[Named]:
    for family in parse(exposition):
        suffix = "_total" if family.type == "counter" else ""
        labels = frozenset(label for sample in family.samples for label in sample.labels)
        yield Named(family.name.removesuffix("_total") + suffix, family.type, labels)


def unknown(names: set[str], metrics: list[Named]) -> set[str]:
    """Those of the names that are no series of these metrics."""
    known = {each.name for each in metrics}
    for each in metrics:
        if each.kind == "histogram":
            known |= {f"{each.name}_{part}" for part in ("bucket", "sum", "count")}
    return names - known


@pytest.mark.mount
def test_names_are_everywhere_the_same(lab: Lab) -> None:
    mounted, port = mount(lab)
    put(mounted.path / "vm", noisy(1 << 20, 1))
    exposition = get(port)
    metrics = list(named(exposition))
    assert len(metrics) > 30
    for name, kind, labels in metrics:
        assert NAME.fullmatch(name) and f"# HELP {name} " in exposition, name
        assert labels <= {"volume", "mechanism", "part", "version", "le", "mode"}, name
        assert name.startswith("blockstore_volume_") == ("volume" in labels) or not labels, name
        if kind == "counter":
            assert name.endswith("_total"), name
        elif not name.endswith("_info"):
            assert not name.endswith(("_total", "_count", "_sum", "_bucket")), name
            assert name.endswith((*UNITS, *COUNTED)), name
        assert kind != "histogram" or name.endswith("_seconds")
    assert {each.name: each.kind for each in metrics} == dict(_in_page())
    for file in (DASHBOARD, ALERTS):
        used = set(NAME.findall(file.read_text()))
        assert used and not unknown(used, metrics), file
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run(
            [promtool, "check", "metrics"], input=exposition, text=True, capture_output=True, timeout=60
        )
        assert done.returncode == 0 and not done.stderr, done


def _in_page() -> list[tuple[str, str]]:
    """Names and types of the page's tables."""
    found = re.findall(r"^\| `(blockstore_[a-z_]+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert len(dict(found)) == len(found)
    return found


def test_dashboard() -> None:
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    assert {each["name"] for each in board["templating"]["list"]} == {"datasource", "instance"}
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["description"] and panel["datasource"]["uid"] == "${datasource}", panel["title"]
        for target in panel["targets"]:
            assert NAME.search(target["expr"]) and '{instance=~"$instance"}' in target["expr"], panel["title"]
            assert target["expr"].count("(") == target["expr"].count(")"), panel["title"]


def test_all_that_may_fail_has_an_alert_and_a_panel() -> None:
    """What holds VMs up: the store, its tier, and the places that pulled blocks are to come from."""
    wanted = {"stalled_requests", "tier_failing", "tier_read_duration_seconds_bucket", "due_failing", "due_lost_blocks"}
    for file in (DASHBOARD, ALERTS):
        assert {f"blockstore_{name}" for name in (*wanted, "due_blocks")} <= set(NAME.findall(file.read_text())), file


def test_alerts() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    for rule in rules:
        assert re.fullmatch(r"\d+m", rule["for"]) and rule["labels"]["severity"] in ("warning", "critical"), rule
        assert NAME.search(rule["expr"]) and "$labels.instance" in rule["annotations"]["summary"], rule
        assert len(rule["annotations"]["description"]) > 60, rule
    table = re.findall(r"^\| `(Blockstore\w+)` \| (\w+) \|", PAGE.read_text(), re.MULTILINE)
    assert [(rule["alert"], rule["labels"]["severity"]) for rule in rules] == table


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_prometheus_takes_the_alerts() -> None:
    done = run(["promtool", "check", "rules", str(ALERTS)])
    assert done.returncode == 0, done
