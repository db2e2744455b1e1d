"""What was measured, against what was promised, and the table of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rich.table import Table

AT_MOST: Final = "<="
AT_LEAST: Final = ">="


@dataclass(frozen=True)
class Figure:
    """One line of the table. Without a target it is there for information."""

    group: str
    name: str
    value: float
    unit: str = ""
    """Empty for a ratio."""
    target: float | None = None
    direction: str = AT_MOST
    low: float | None = None
    high: float | None = None
    """The least and the most of the repetitions, of which `value` is the median."""
    note: str = ""

    @property
    def verdict(self) -> str:
        """met, short, or empty where nothing was promised."""
        if self.target is None:
            return ""
        met = self.value <= self.target if self.direction == AT_MOST else self.value >= self.target
        return "met" if met else "short"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}


def from_repetitions(
    group: str,
    name: str,
    values: Sequence[float],
    unit: str = "",
    target: float | None = None,
    direction: str = AT_MOST,
    note: str = "",
) -> Figure:
    """The median of repetitions, with their range."""
    middle = statistics.median(values)
    return Figure(group, name, middle, unit, target, direction, min(values), max(values), note)


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Of what was measured side by side: repetition by repetition, so that noise that lasts cancels out."""
    return [above / below for above, below in zip(upper, lower, strict=True)]


def table(figures: Sequence[Mapping[str, Any]]) -> Table:
    """All figures (`as_json`) for a terminal; one section a group."""
    result = Table(title="blockstore: measured, and promised", title_justify="left")
    result.add_column("figure")
    result.add_column("measured", justify="right")
    result.add_column("range", justify="right", style="dim")
    result.add_column("target", justify="right")
    result.add_column("verdict")
    result.add_column("note", style="dim", overflow="fold")
    group = ""
    for figure in figures:
        if group and figure["group"] != group:
            result.add_section()
        group = figure["group"]
        *texts, verdict, note = cells(figure)
        style = {"met": "green", "short": "red"}.get(verdict, "")
        result.add_row(*texts, f"[{style}]{verdict}[/]" if style else "", note)
    return result


def cells(figure: Mapping[str, Any]) -> tuple[str, str, str, str, str, str]:
    """What a table says of a figure (`as_json`): name, measured, range, target, verdict, note."""
    unit = f" {figure['unit']}" if figure["unit"] else ""
    spread = target = ""
    if figure["low"] is not None and figure["high"] is not None:
        spread = f"{number(figure['low'])} to {number(figure['high'])}"
    if figure["target"] is not None:
        target = f"{'at most' if figure['direction'] == AT_MOST else 'at least'} {number(figure['target'])}{unit}"
    name, measured = f"{figure['group']}: {figure['name']}", f"{number(figure['value'])}{unit}"
    return name, measured, spread, target, figure["verdict"], figure["note"]


def number(value: float) -> str:
    """Three or four digits that count."""
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or not size else f"{value:.3f}"
