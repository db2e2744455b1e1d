"""What was measured, against what was promised, and the table of it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
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


def table(figures: Sequence[Figure]) -> Table:
    """All figures; one section a group."""
    result = Table(title="blockstore: measured, and promised", title_justify="left")
    result.add_column("figure")
    result.add_column("measured", justify="right")
    result.add_column("range", justify="right", style="dim")
    result.add_column("target", justify="right")
    result.add_column("verdict")
    result.add_column("note", style="dim", overflow="fold")
    group = ""
    for figure in figures:
        if group and figure.group != group:
            result.add_section()
        group = figure.group
        spread = ""
        if figure.low is not None and figure.high is not None:
            spread = f"{_number(figure.low)} - {_number(figure.high)}"
        target = "" if figure.target is None else f"{figure.direction} {_number(figure.target)} {figure.unit}".strip()
        style = {"met": "green", "short": "red"}.get(figure.verdict, "")
        result.add_row(
            f"{figure.group}: {figure.name}",
            f"{_number(figure.value)} {figure.unit}".strip(),
            spread,
            target,
            f"[{style}]{figure.verdict}[/]" if style else "",
            figure.note,
        )
    return result


def _number(value: float) -> str:
    """Three or four digits that count."""
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 0.1 or not size else f"{value:.3f}"
