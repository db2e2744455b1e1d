"""What a run leaves behind: results.json, a table, the plots as PNG, one page that has it all; and a dated copy.

Everything is made from the report (cli.py) alone, so that an old results.json can be drawn again.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping
from itertools import chain, count
from pathlib import Path
from typing import Any, Final

from benchlab import plots
from benchlab.figures import cells

PROJECT: Final = Path(__file__).parents[2]
FOLDER: Final = PROJECT / "build" / "bench"
DATED: Final = PROJECT / "docs" / "bench"

_PNG_DPI: Final = 150

_CAPTIONS: Final = {
    "saved-over-time": "Memory saved while guests work, and after that, by set and system. All that a system costs the "
    "host is counted.",
    "saved-by-mechanism": "Where the touched memory went, at the end.",
    "mechanisms": "Processor time; written as the kernel writes back (1 MiB), read as faults read (4 KiB). The paper's "
    "machine is of 2007: compare the order, not the figures.",
    "slowdown": "Each dot is a pair of runs, one on the store and one on plain memory; diamonds are medians.",
    "faults": "A 4 KiB page that is not in the page cache is touched through a mapping; client and server on one core.",
    "throughput": "The same jobs on each; the content is memory of real guests.",
    "growth": "One mount, filled with memory of real guests and variations of it.",
}

_STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: 13px; width: 100% }
th, td { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid #e4e7eb; vertical-align: top }
td.n { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
.met { color: #1b7a43 } .short { color: #c0392b; font-weight: 600 } .dim, figcaption { color: #52606d }
figure { margin: 1.5rem 0 } img { max-width: 100% }
"""


def write(report: Mapping[str, Any], folder: Path) -> list[Path]:
    """results.json, table.md, a PNG for each plot, and index.html; the files. Raises OSError."""
    for old in folder.glob("*.png"):
        old.unlink()
    written = [save(report, folder)]
    written.append(_put(folder / "table.md", table(report)))
    images: dict[str, bytes] = {}
    for name, plot in plots.draw(report["data"]).items():
        buffer = io.BytesIO()
        plot.savefig(buffer, format="png", dpi=_PNG_DPI)
        images[name] = buffer.getvalue()
        (folder / f"{name}.png").write_bytes(images[name])
        written.append(folder / f"{name}.png")
    plots.forget()
    written.append(_put(folder / "index.html", page(report, images)))
    return written


def save(report: Mapping[str, Any], folder: Path) -> Path:
    """results.json alone: after each group, so that a run that is cut off has not been for nothing. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    return _put(folder / "results.json", json.dumps(report, indent=1) + "\n")


def publish(report: Mapping[str, Any]) -> Path:
    """The dated copy in docs/: the table, and the plots as SVG, which are text. Raises OSError.

    What was published before stays: the second one of a day is called DATE-2, and so on."""
    date = str(report["machine"]["date"])
    names = chain([date], (f"{date}-{number}" for number in count(2)))
    folder = next(DATED / name for name in names if not (DATED / name).exists())
    folder.mkdir(parents=True)
    drawn = plots.draw(report["data"])
    for name, plot in drawn.items():
        plot.savefig(folder / f"{name}.svg", metadata={"Date": None})
    plots.forget()
    pictures = "".join(f"\n![{_CAPTIONS.get(name, name)}]({name}.svg)\n\n{_CAPTIONS.get(name, '')}\n" for name in drawn)
    _put(folder / "README.md", f"# Measured on {date}\n\n{table(report)}{pictures}")
    return folder


def table(report: Mapping[str, Any]) -> str:
    """All figures in Markdown, and the machine they were measured on."""
    lines = ["| figure | measured | range | target | | |", "|---|---:|---:|---:|---|---|"]
    for figure in report["figures"]:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells(figure)) + " |")
    lines += ["", _machine(report), ""]
    lines += [f"- not measured: {text}" for text in (*report["failures"], *report["not_measured"])]
    return "\n".join(lines) + "\n"


def page(report: Mapping[str, Any], images: Mapping[str, bytes]) -> str:
    """One HTML page that needs nothing else; `images` are PNGs by name."""
    parts = ["<!DOCTYPE html><html lang=en><meta charset=utf-8><title>blockstore: measured</title>"]
    parts.append(f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>")
    parts.append(f"<h1>blockstore: measured, side by side</h1><p class=dim>{html.escape(_machine(report))}</p>")
    for name, content in images.items():
        caption = html.escape(_CAPTIONS.get(name, name))
        data = base64.b64encode(content).decode()
        parts.append(f"<figure><img alt='{caption}' src='data:image/png;base64,{data}'>")
        parts.append(f"<figcaption>{caption}</figcaption></figure>")
    parts.append("<h2>All figures</h2><table><tr><th>figure<th>measured<th>range<th>target<th><th>")
    for figure in report["figures"]:
        name, measured, spread, target, verdict, note = (html.escape(cell) for cell in cells(figure))
        parts.append(f"<tr><td>{name}<td class=n>{measured}<td class='n dim'>{spread}<td class=n>{target}")
        parts.append(f"<td class={verdict or 'dim'}>{verdict}<td class=dim>{note}")
    parts.append("</table>")
    left_out = (*report["failures"], *report["not_measured"])
    if left_out:
        parts.append("<h2>Not measured</h2><ul>" + "".join(f"<li>{html.escape(text)}" for text in left_out) + "</ul>")
    return "\n".join(parts) + "\n"


def _machine(report: Mapping[str, Any]) -> str:
    machine = report["machine"]
    quick = "; --quick: not to be quoted" if machine["quick"] else ""
    return (
        f"{machine['date']}, {machine['cpu'].strip()}, {machine['cores']} cores, "
        f"{machine['memory_bytes'] / 2**30:.0f} GiB, Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['seconds']:.0f} s{quick}"
    )


def _put(path: Path, text: str) -> Path:
    path.write_text(text)
    return path
