"""The page that `blockstore report` writes: a report of observe() and the history of its mount as one HTML file.

Pure. The file needs nothing beside it and nobody's network, and asks the browser to refuse both. Every text that
comes from outside goes through `_text`.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, tzinfo
from html import escape
from itertools import pairwise
from typing import Any, Final, NamedTuple

from blockstore.cli.types.sizes import compact_size, counted, format_size
from blockstore.cli.views.natural_order import by_name, natural
from blockstore.cli.views.report_charts import MINIMUM_SAMPLES, charts, gaps
from blockstore.cli.views.report_style import SCRIPT, STYLE
from blockstore.printable import printable
from blockstore.store.accounting.classes import CLASSES, RECORDS
from blockstore.store.accounting.report import HOST as COSTS
from blockstore.store.accounting.report import Report
from blockstore.vm.observe.history import Sample

Figures = Mapping[str, Any]

SUM_COLUMNS: Final = ("touched", "footprint", "saved")
"""What matters: at the left, where a narrow window shows it too."""

MEMORY_COLUMNS: Final = ("logical", *CLASSES)
COST_COLUMNS: Final = ("stored", *COSTS)

HEADINGS: Final = {"daemon_memory": "daemon"}

WORDS: Final = {
    "logical": "the size of the file that is the VM's memory",
    "touched": f"memory that the VM wrote and did not free; = {' + '.join(CLASSES)}",
    "zero": "blocks of zeros; they need no record",
    "shared": "blocks whose content has more than one user, however it is encoded",
    "patched": "stored as the difference from a reference block",
    "compressed": "stored by themselves, compressed with LZ4",
    "dense": "cold, and therefore encoded anew with zstd; patches among them",
    "raw": "stored as they are, because they do not compress",
    "paged": "cold, and therefore in the tier; they take no memory",
    "stored": "records in the pool; one with n users counts 1/n for each",
    "references": "records that no VM has any more, but that patches are against",
    "pool": "memory of the pool: what is stored, and what is garbage or not yet filled",
    "tables": "memory of block rows, indexes and volume maps",
    "daemon": "memory of the mount's processes and of small files; each VM has a share of it",
    "resident": "in the kernel's page cache, uncompressed, because the VM uses it",
    "footprint": "pool + tables + daemon + resident: what the host pays",
    "saved": "1 - footprint / touched; negative where the store costs more than it saves",
    "snapshots": "what the host would get back if all of them were deleted; what a VM needs too is the VM's",
    "refaults": "blocks that a VM used again after they had left the page cache; the store gave them back",
}
"""As in docs/status.md."""


class Facts(NamedTuple):
    """What is beside the report: where and when it was made. `warnings` are sentences."""

    mountpoint: str
    machine: str
    machine_bytes: int
    version: str
    taken_s: float
    warnings: Sequence[str] = ()
    zone: tzinfo | None = None
    """Of the times on the page; None is this machine's."""


def page(report: Report, samples: Sequence[Sample], facts: Facts) -> str:
    """The whole file. `samples` are the history's, without that of now."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; img-src data:"
    return "\n".join(
        [
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>Memory of {_text(facts.mountpoint)}</title><style>{STYLE}</style></head><body>",
            *_head(report, facts),
            *_cards(report, facts.machine_bytes),
            *_bars(report["total"]),
            *_snapshots(report),
            "<h2>Since the mount was made</h2>",
            *_history(report, samples, facts),
            "<h2>By VM</h2>",
            *_volumes(report),
            *_controlled(report),
            "<h2>Stored, by mechanism</h2>",
            *_records(report["total"]),
            "<h2>The words</h2><dl>",
            *(f"<dt>{word}</dt><dd>{escape(meaning)}</dd>" for word, meaning in WORDS.items()),
            f"</dl><script>{SCRIPT}</script></body></html>\n",
        ]
    )


def _head(report: Report, facts: Facts) -> Iterator[str]:
    total = report["total"]
    taken = datetime.fromtimestamp(facts.taken_s, facts.zone).astimezone(facts.zone)
    words = [
        f"{taken.day} {taken:%B %Y, %H:%M:%S %Z}",
        f"on {_text(facts.machine)} with {format_size(facts.machine_bytes)}",
        f"mounted {_duration(facts.taken_s - total['mounted_at'])} ago" if total["mounted_at"] else "",
        f"daemon replaced {counted(total['restarts'], 'time')}" if total["restarts"] else "",
        f"blockstore {_text(facts.version)}",
    ]
    yield f"<header><h1>Memory of <bdi>{_text(facts.mountpoint)}</bdi></h1>"
    yield f'<p class="soft">{" &middot; ".join(word for word in words if word)}</p></header>'
    for sentence in facts.warnings:
        yield f'<p class="warning">{_text(sentence[:1].upper() + sentence[1:])}.</p>'


def _cards(report: Report, machine_bytes: int) -> Iterator[str]:
    """The key figures."""
    total, snapshots, count = report["total"], report["snapshots"], len(report["volumes"])
    difference = total["touched"] - total["footprint"]
    cards = [
        ("touched", format_size(total["touched"]), f"of {format_size(total['logical'])} logical"),
        (
            "footprint",
            format_size(total["footprint"]),
            f"{_percent(total['footprint'] / machine_bytes)} of the machine",
        ),
        ("saved", _saved(total), f"{format_size(abs(difference))} {'less' if difference >= 0 else 'more'}"),
        (
            "pool",
            format_size(report["host"]["pool"]),
            f"{_percent(total['pool_full'])} of {format_size(total['pool_limit'])} in use",
        ),
        ("VMs" if count != 1 else "VM", f"{count:,}", f"{format_size(total['resident'])} resident"),
    ]
    if snapshots["count"]:
        word = "snapshots" if snapshots["count"] != 1 else "snapshot"
        cards.append((word, f"{snapshots['count']:,}", f"only they need {format_size(snapshots['unique'])}"))
    yield '<section class="cards">'
    for name, value, remark in cards:
        yield f'<div class="card">{name}<b>{value}</b><span class="soft">{remark}</span></div>'
    yield "</section>"


def _bars(total: Figures) -> Iterator[str]:
    """What there is and what it costs, at one scale."""
    scale = max(total["touched"], total["footprint"], 1)
    yield "<h2>Now</h2>"
    for whole, parts in (("touched", CLASSES), ("footprint", COSTS)):
        name = "the memory of the VMs" if whole == "touched" else "what the host pays for it"
        yield f'<div class="bar"><div class="head"><span><b>{whole}</b>, {name}</span>'
        yield f'<b>{format_size(total[whole])}</b></div>{_pieces(total, parts, scale, 30)}<ul class="legend">'
        for part in parts:
            share = f" ({_percent(total[part] / total[whole])})" if total[whole] else ""
            yield f'<li><i class="swatch {part}"></i>{_heading(part)} {format_size(total[part])}{share}</li>'
        yield "</ul></div>"


def _snapshots(report: Report) -> Iterator[str]:
    """What only snapshots need, if there are any."""
    figures, host = report["snapshots"], report["host"]
    if figures["count"]:
        parts = ", ".join(
            f"{_heading(key)} {format_size(figures[key])}" for key in COSTS if figures[key] and key != "daemon_memory"
        )
        yield (
            f'<p><i class="swatch snapshots"></i> <b>snapshots</b>, in none of these: {figures["count"]:,}, and only '
            f"they need {format_size(figures['unique'])}{f' ({parts})' if parts else ''}. With that the host pays "
            f"{format_size(host['footprint'])}.</p>"
        )


def _pieces(figures: Figures, parts: Iterable[str], scale: float, height: int) -> str:
    """A bar of pieces, as wide as its place where it reaches the scale."""
    pieces, x = [], 0.0
    for part in parts:
        width = 1000 * figures[part] / scale
        if width > 0:
            title = f"{_heading(part)} {format_size(figures[part])}"
            place = f'x="{x:.2f}" width="{width:.2f}" height="{height}"'
            pieces.append(f'<rect class="piece {part}" {place}><title>{title}</title></rect>')
        x += width
    return f'<svg viewBox="0 0 1000 {height}" preserveAspectRatio="none" aria-hidden="true">{"".join(pieces)}</svg>'


def _history(report: Report, samples: Sequence[Sample], facts: Facts) -> Iterator[str]:
    if len(samples) < MINIMUM_SAMPLES:
        yield (
            f'<p class="soft">There are no charts yet: the history of this mount has {counted(len(samples), "sample")} '
            "so far, and a chart needs two. One is taken every few seconds; make the report again in a minute.</p>"
        )
        return
    offset = datetime.fromtimestamp(facts.taken_s, facts.zone).astimezone(facts.zone).utcoffset()
    times = json.dumps([round(sample.time_s, 1) for sample in samples], separators=(",", ":"))
    if any(after.restarts != before.restarts for before, after in pairwise(samples)):
        yield '<p class="soft">A dotted line from top to bottom: another daemon took over.</p>'
    if gaps(samples):
        yield '<p class="soft">Where a chart is interrupted no samples were taken.</p>'
    yield f'<section class="charts" data-times="{times}" data-offset="{offset.total_seconds() if offset else 0:.0f}">'
    yield from charts(samples, facts.zone)
    yield "</section>"


def _volumes(report: Report) -> Iterator[str]:
    """A line for each VM, those with the most memory first; at the top the total."""
    volumes: dict[str, Figures] = report["volumes"]
    if not volumes:
        yield '<p class="soft">The mount has no files.</p>'
        return
    total = report["total"]
    rows = sorted(volumes.items(), key=lambda item: (-item[1]["touched"], -item[1]["footprint"], natural(item[0])))
    largest = max(max(each["touched"], each["footprint"]) for each in volumes.values()) or 1
    groups = (("", SUM_COLUMNS), ("Memory of the VM", MEMORY_COLUMNS), ("Cost to the host", COST_COLUMNS))
    keys = [key for _, group in groups for key in group]
    yield '<div class="scroll"><table class="volumes"><caption>By touched memory; K is 1024. Of the two bars the upper '
    yield "one is touched by mechanism, the lower one is footprint: pool, tables, daemon, resident.</caption>"
    yield '<thead><tr><th colspan="2"></th>'
    yield "".join(f'<th class="group first" colspan="{len(group)}">{title}</th>' for title, group in groups)
    yield '</tr><tr><th scope="col" style="text-align:left">VM</th><th></th>'
    yield "".join(f'<th scope="col"{_class(key)}>{_heading(key)}</th>' for key in keys) + "</tr></thead><tbody>"
    for name, figures, scale in [("total", total, 0), *((name, each, largest) for name, each in rows)]:
        yield f'<tr class="{"one" if scale else "all"}"><th scope="row">{_name(name)}</th><td class="mini">'
        if scale:
            yield _pieces(figures, CLASSES, scale, 7) + _pieces(figures, COSTS, scale, 7)
        yield "</td>" + "".join(
            f"<td{_class(key, figures[key])}>{_saved(figures) if key == 'saved' else compact_size(figures[key])}</td>"
            for key in keys
        )
        yield "</tr>"
    yield "</tbody></table></div>"


def _controlled(report: Report) -> Iterator[str]:
    """The VMs whose resident part is controlled, if there are any."""
    found = {name: each for name, each in by_name(report["volumes"]) if each.get("controller")}
    if not found:
        return
    headings = ("process", "wanted", "resident", "by", "refaults", "waiting")
    yield '<h2>Resident part, controlled</h2><div class="scroll"><table><thead><tr><th></th>'
    yield "".join(f'<th scope="col">{heading}</th>' for heading in headings) + "</tr></thead><tbody>"
    for name, figures in found.items():
        control = figures["controller"]
        wanted, share = control["wanted"], control["refault_share"]
        cells = (
            str(control["pid"]),
            wanted if isinstance(wanted, str) else format_size(wanted),
            format_size(figures["resident"]),
            control["mechanism"] or "-",
            f"{figures['refaults']:,}",
            "-" if share is None else f"{100 * share:.2f} %",
        )
        yield f'<tr><th scope="row">{_name(name)}</th>'
        yield "".join(f"<td>{_text(cell)}</td>" for cell in cells) + "</tr>"
    yield "</tbody></table></div>"


def _records(total: Figures) -> Iterator[str]:
    """The records in the pool: how much memory each kind stands for, and what it takes."""
    yield '<table><thead><tr><th></th><th scope="col">memory</th><th scope="col">stored</th>'
    yield '<th scope="col">per block</th></tr></thead><tbody>'
    for name in RECORDS:
        size_bytes, blocks = total[f"stored_{name}"], total.get(f"{name}_blocks", 0)
        memory = format_size(total.get(name, 0)) if blocks else "-"
        per_block = f"{size_bytes / blocks:.0f} B" if blocks else "-"
        cells = (memory, format_size(size_bytes), per_block)
        yield f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    stored = format_size(total["stored"])
    yield f'<tr class="all"><th scope="row">all records</th><td></td><td>{stored}</td><td></td></tr>'
    yield "</tbody></table>"


def _text(text: str) -> str:
    return escape(printable(text))


def _name(name: str) -> str:
    """Of a VM; a long one is cut off by the style sheet, and whole at the pointer."""
    return f'<bdi title="{_text(name)}">{_text(name)}</bdi>'


def _heading(key: str) -> str:
    return HEADINGS.get(key, key)


def _class(key: str, value: float = 0) -> str:
    """A line before the columns that begin a group; what is lost in a colour of its own."""
    kinds = ["first"] if key in (SUM_COLUMNS[0], MEMORY_COLUMNS[0], COST_COLUMNS[0]) else []
    kinds += ["loss"] if key == "saved" and value < 0 else []
    return f' class="{" ".join(kinds)}"' if kinds else ""


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %".replace("-", "\N{MINUS SIGN}")


def _saved(figures: Figures) -> str:
    return _percent(figures["saved"]) if figures["touched"] else "-"


def _duration(seconds: float) -> str:
    """In the two largest units."""
    left = max(int(seconds), 0)
    parts: list[str] = []
    for size, word in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        number, left = divmod(left, size)
        if number or parts:
            parts.append(counted(number, word))
    return " ".join(parts[:2]) or "0 seconds"
