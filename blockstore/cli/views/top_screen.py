"""The full screen of `top`: what stands where, and the keys. No number is ever cut: a column that does not fit goes."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar, Final, NamedTuple

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.widgets import Static

from blockstore.cli.types.sizes import compact_size
from blockstore.cli.views import health
from blockstore.cli.views.savings_table import format_share
from blockstore.cli.views.top_model import (
    TREND_LETTERS,
    History,
    Observation,
    Row,
    bound,
    compact_rate,
    compact_share,
    mechanism_of,
    pause_s,
    shorten,
    snapshots_of,
    sort_rows,
    wanted_of,
)
from blockstore.daemon.host.mounts import Mount
from blockstore.printable import printable
from blockstore.store.accounting.classes import CLASSES

Outcome = Observation | str | BaseException
"""What came of a look at the mount: figures; or why there are none at the moment; or an error that ends it all."""

Look = Callable[[Callable[[Outcome], None]], None]
"""Looks at the mount in a thread of its own, and calls back from there."""

SLOW_S: Final = 3.0
"""After so long without an answer the screen says so."""

LEAST_NAME: Final = 10
LEAST_TREND: Final = 6
"""Cells; names that are longer lose their middle."""


class Column(NamedTuple):
    """A figure of every VM. `group` is the page that it is on where not all fit; 0 is on both."""

    heading: str
    width: int
    group: int
    value: Callable[[Row], str]
    sort_key: str = ""


def _size(key: str, group: int, width: int, sort_key: str = "") -> Column:
    return Column(key, width, group, lambda row: compact_size(row.figures[key]), sort_key)


# Columns that can be sorted by have a cell more than their heading, for the arrow.
COLUMNS: Final = (
    _size("logical", 1, 7, "logical")._replace(heading="memory"),
    _size("touched", 0, 8, "touched"),
    _size("resident", 1, 9, "resident"),
    Column("wanted", 6, 1, wanted_of),
    Column("by", 7, 1, mechanism_of),
    Column("faults/s", 9, 1, lambda row: compact_rate(row.faults_per_s), "faults"),
    *(_size(kind, 2, max(len(kind), 5)) for kind in (*CLASSES, "stored")),
    Column("saved", 8, 0, lambda row: compact_share(row.figures["saved"]), "saved"),
)

SORT_KEYS: Final = {
    "n": ("name", False),
    "m": ("logical", True),
    "t": ("touched", True),
    "r": ("resident", True),
    "f": ("faults", True),
    "s": ("saved", True),
}
"""By key: what it sorts by, and whether the largest comes first."""

_GIVEN_UP: Final = (
    "by",
    "wanted",
    "memory",
    "paged",
    "zero",
    "compressed",
    "dense",
    "patched",
    "raw",
    "shared",
    "touched",
    "stored",
)
"""The order in which columns go where even one page does not fit."""


class Layout(NamedTuple):
    """What fits into a line: the name, the columns, and what is left for the trend (0: none)."""

    name: int
    columns: tuple[Column, ...]
    trend: int
    gap: int
    has_pages: bool


def lay_out(width: int, longest_name: int, page: int) -> Layout:
    """All columns if they fit, or else those of a page (1 or 2)."""
    name = max(min(longest_name, LEAST_NAME), len("name▲"))
    columns, has_pages, gap = COLUMNS, False, 2
    if _needs(name, columns, gap) + gap + LEAST_TREND > width:
        gap = 1
    if _needs(name, columns, gap) + gap + LEAST_TREND > width:
        columns, has_pages = tuple(each for each in COLUMNS if each.group in (0, page)), True
    for heading in _GIVEN_UP:
        if _needs(name, columns, gap) > width:
            columns = tuple(each for each in columns if each.heading != heading)
    left = max(width - _needs(name, columns, gap), 0)
    name = min(name, max(width - _needs(0, columns, gap), 1))
    if left < gap + LEAST_TREND:
        return Layout(name + max(min(longest_name - name, left), 0), columns, 0, gap, has_pages)
    spare = left - gap - LEAST_TREND
    longer = max(min(longest_name - name, max(spare // 2, min(spare, LEAST_NAME))), 0)
    return Layout(name + longer, columns, min(left - longer - gap, TREND_LETTERS), gap, has_pages)


def _needs(name: int, columns: Iterable[Column], gap: int) -> int:
    return name + sum(each.width + gap for each in columns)


def line_of(row: Row, layout: Layout, trend: str, style: str = "") -> Text:
    """A VM's line."""
    text = Text(shorten(row.shown_name, layout.name), style=style or "bold", no_wrap=True, end="")
    for column in layout.columns:
        value = column.value(row)
        shade = _shade(column, row, value)
        text.append(" " * layout.gap).append(value.rjust(column.width), style=f"{shade} {style}" if style else shade)
    if layout.trend:
        text.append(" " * layout.gap).append(trend, style="not bold cyan")
    return text


def _shade(column: Column, row: Row, value: str) -> str:
    if column.heading == "saved":
        return f"not bold {format_share(row.figures['saved']).style}".strip()
    return "not bold dim" if value in ("0", "-") else "not bold"


def headings_of(layout: Layout, sort_key: str, *, reverse: bool) -> Text:
    """The line above: an arrow stands at what the rows are sorted by."""
    arrow = "▼" if reverse else "▲"
    text = Text(no_wrap=True, end="")
    name = "name" + (arrow if sort_key == "name" else "")
    text.append(name.ljust(layout.name)[: layout.name], style="bold underline" if sort_key == "name" else "dim")
    for column in layout.columns:
        chosen = bool(column.sort_key) and column.sort_key == sort_key
        heading = arrow + column.heading if chosen else column.heading
        text.append(" " * (layout.gap + column.width - len(heading)))
        text.append(heading, style="bold underline" if chosen else "dim")
    if layout.trend:
        what = "resident, lately"
        text.append(" " * layout.gap + (what if len(what) <= layout.trend else "lately"), style="dim")
    return text


def head_of(mount: Mount, interval_s: float, history: History, width: int) -> Text:
    """What there is to say about the mount as a whole."""
    assert history.last is not None
    total, answer, latencies = history.last.report["total"], history.last.answer, history.latencies
    pool = f"{compact_size(answer['pool_used'])} of {compact_size(total['pool_limit'])} ({total['pool_full']:.0%})"
    lines = (
        [
            ("mount", printable(str(mount.path))),
            ("VMs", str(len(history.rows))),
            *snapshots_of(history.last.report["snapshots"]),
            ("daemon restarts", str(total["restarts"])),
            ("every", f"{interval_s:g} s"),
        ],
        [
            ("pool", pool),
            ("footprint", compact_size(total["footprint"])),
            ("touched", compact_size(total["touched"])),
            ("saved", compact_share(total["saved"])),
        ],
        [
            ("faults/s", compact_rate(history.total.faults_per_s)),
            ("fault p50", bound(latencies.p50_us)),
            ("p99", bound(latencies.p99_us)),
        ],
    )
    text = Text("\n").join(flow(pairs, width) for pairs in lines)
    found = health.judge(answer)
    for sentence in health.missing(total):
        text.append(f"\nwarning: {printable(sentence)}", style="yellow")
    for sentence in found.sentences:
        text.append(
            f"\nwarning: {printable(sentence)}", style="bold red" if found.level == health.CRITICAL else "yellow"
        )
    return text


def flow(pairs: Sequence[tuple[str, str]], width: int) -> Text:
    """Words and their values beside each other; a line is never broken between the two."""
    text, used = Text(), 0
    for word, value in pairs:
        cells = cell_len(word) + 1 + cell_len(value)
        if used and used + 3 + cells > width:
            text.append("\n")
            used = 0
        elif used:
            text.append("   ")
            used += 3
        text.append(f"{word} ", style="dim").append(value, style="bold")
        used += cells
    return text


class Rows(ScrollView, can_focus=True):
    """The VMs' lines; only those that are seen are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self._rows: Sequence[Row] = ()
        self._draw: Callable[[Row], Text] = lambda row: Text()

    def show(self, rows: Sequence[Row], draw: Callable[[Row], Text]) -> None:
        """From now on these."""
        self._rows, self._draw = rows, draw
        self.virtual_size = Size(1, len(rows))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """One line of the window."""
        number, width = self.scroll_offset.y + y, self.size.width
        if number >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        segments = self._draw(self._rows[number]).render(self.app.console)
        return Strip(segments).adjust_cell_length(width).apply_style(self.rich_style)


class Looked(Message):
    """A look at the mount has ended."""

    def __init__(self, outcome: Outcome, took_s: float) -> None:
        super().__init__()
        self.outcome = outcome
        self.took_s = took_s


class TopScreen(App[None]):
    """`error` is what it ended with, if not because it was told to."""

    ENABLE_COMMAND_PALETTE = False
    CSS = """
    Screen { layout: vertical; overflow: hidden; }
    Static { height: auto; }
    #headings { margin-top: 1; }
    Rows { height: 1fr; scrollbar-size: 1 1; overflow-x: hidden; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,ctrl+c", "quit", "quit", priority=True),
        Binding("ctrl+z", "suspend_process", "suspend", priority=True),
        Binding("tab", "turn_page", "columns", priority=True),
        *(Binding(key, f"sort('{key}')", what) for key, (what, _) in SORT_KEYS.items()),
    ]

    def __init__(self, mount: Mount, look: Look, first: Observation, interval_s: float, count: int | None) -> None:
        super().__init__(ansi_color=True)
        self.error: BaseException | None = None
        self._mount, self._look = mount, look
        self._interval_s, self._left = interval_s, count
        self._history = History(interval_s)
        self._sort_key, self._reverse, self._page = *SORT_KEYS["n"], 1
        self._looking_since: float | None = None
        self._silence = ""
        self._take(first)

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Static(id="head")
        yield Static(id="headings")
        yield Static(id="total")
        yield Rows()
        yield Static(id="keys")

    def on_mount(self) -> None:
        """The first screen, and the clock."""
        self.query_one(Rows).focus()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)
        self.set_interval(1.0, self._say_how_long)
        self._next(0.0)

    def on_resize(self, event: events.Resize) -> None:
        """Other columns fit."""
        self.call_after_refresh(self._redraw)

    def on_looked(self, message: Looked) -> None:
        """What came of it."""
        self._looking_since, outcome = None, message.outcome
        if isinstance(outcome, BaseException):
            self.error = outcome
            self.exit()
            return
        if isinstance(outcome, str):
            self._silence = outcome
        else:
            self._take(outcome)
        self._redraw()
        self._next(message.took_s)

    def action_sort(self, key: str) -> None:
        """By this; the other way round if it already is."""
        wanted, reverse = SORT_KEYS[key]
        self._reverse = not self._reverse if wanted == self._sort_key else reverse
        self._sort_key = wanted
        self._redraw()

    def action_turn_page(self) -> None:
        """The other columns."""
        self._page = 3 - self._page
        self._redraw()

    def _take(self, observation: Observation) -> None:
        self._silence = ""
        self._history.add(observation)
        if self._left is not None:
            self._left -= 1

    def _next(self, took_s: float) -> None:
        """Look again in a while; or, after `--count` looks, end when the last of them has been seen that long."""
        self.set_timer(pause_s(self._interval_s, took_s), self.exit if self._left == 0 else self._start_look)

    def _start_look(self) -> None:
        started_s = self._looking_since = time.monotonic()
        self._look(lambda outcome: self._looked(outcome, time.monotonic() - started_s))

    def _looked(self, outcome: Outcome, took_s: float) -> None:
        """In the thread that looked."""
        self.post_message(Looked(outcome, took_s))

    def _say_how_long(self) -> None:
        """While nobody answers."""
        if self._looking_since is not None and time.monotonic() - self._looking_since > SLOW_S:
            self._redraw()

    def _redraw(self) -> None:
        history, width = self._history, self.size.width
        longest = max((cell_len(row.shown_name) for row in history.rows), default=0)
        rows = self.query_one(Rows)
        has_bar = len(history.rows) > rows.size.height
        layout = lay_out(width - has_bar, longest, self._page)
        self.query_one("#head", Static).update(self._head(width))
        self.query_one("#headings", Static).update(headings_of(layout, self._sort_key, reverse=self._reverse))
        ordered = sort_rows(history.rows, self._sort_key, reverse=self._reverse)
        rows.show(ordered, lambda row: line_of(row, layout, history.trend(row.name, layout.trend)))
        total = line_of(history.total, layout, history.trend(None, layout.trend), style="bold")
        self.query_one("#total", Static).update(total)
        self.query_one("#keys", Static).update(self._keys(layout))

    def _head(self, width: int) -> Text:
        text = head_of(self._mount, self._interval_s, self._history, width)
        age_s = time.monotonic() - self._history.last.taken_s if self._history.last is not None else 0.0
        if self._silence or (self._looking_since is not None and time.monotonic() - self._looking_since > SLOW_S):
            reason = f" ({printable(self._silence)})" if self._silence else ""
            text.append(f"\nwaiting for the daemon: all this is {age_s:.0f} s old{reason}", style="bold yellow")
        return text

    def _keys(self, layout: Layout) -> Text:
        shown = [
            ("q", "quit"),
            *((key, "memory" if what == "logical" else what) for key, (what, _) in SORT_KEYS.items()),
        ]
        if layout.has_pages:
            shown.append(("tab", "more"))
        text = Text(no_wrap=True)
        for key, what in shown:
            text.append(f"{key} ", style="bold").append(what + "  ", style="dim")
        return text
