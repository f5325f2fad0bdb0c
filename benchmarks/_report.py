"""Figures -> goals, tables, a page and its picture. Never measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Values = Mapping[str, float]  # by target


@dataclass(frozen=True)
class Row:
    """One thing measured of several targets."""

    key: str
    label: str
    values: Values


class Figures(dict[str, list[Row]]):
    """The rows of each part."""

    def get_value(self, part: str, key: str, target: str = "site") -> float:
        """Return one figure. Raises KeyError if it was not measured."""
        for row in self[part]:
            if row.key == key:
                return row.values[target]
        raise KeyError(key)

    def peers(self, part: str, key: str) -> Values:
        """Return the figures of all targets but the model itself."""
        values = next(row.values for row in self[part] if row.key == key)
        return {name: value for name, value in values.items() if name != "model"}

    def ratio(self, part: str, key: str, target: str, other: str) -> float:
        """Return how many times *other*'s figure *target*'s is. Raises KeyError if either was not measured."""
        return self.get_value(part, key, target) / (self.get_value(part, key, other) or float("nan"))


@dataclass(frozen=True)
class Goal:
    """What a figure must reach, and what it would be fine if it reached; None where there is no such bound."""

    label: str
    value: Callable[[Figures], float]
    goal: float | None
    moonshot: float | None = None
    at_least: bool = False

    def reached(self, value: float, bound: float | None) -> bool:
        if bound is None:
            return True
        return value >= bound if self.at_least else value <= bound


@dataclass(frozen=True)
class Verdict:
    """A goal with its figure."""

    goal: Goal
    value: float

    @property
    def missed(self) -> bool:
        return not self.goal.reached(self.value, self.goal.goal)

    @property
    def cells(self) -> tuple[str, str, str, str]:
        return self.goal.label, number(self.value), self._mark(self.goal.goal), self._mark(self.goal.moonshot)

    def _mark(self, bound: float | None) -> str:
        if bound is None:
            return ""
        sign, mark = "≥" if self.goal.at_least else "≤", "✓" if self.goal.reached(self.value, bound) else "✗"
        return f"{sign} {bound:,.3g} {mark}"


def number(value: float) -> str:
    """Return *value* with three digits that count, and no exponent."""
    size = abs(value)
    if math.isfinite(value) and (size >= 100 or value == int(value)):
        return f"{value:,.0f}"
    digits = next((digits for bound, digits in ((10, 1), (1, 2), (0.1, 3)) if size >= bound), 4)
    return f"{value:.{digits}f}"


def judged(goals: Sequence[Goal], figures: Figures) -> list[Verdict]:
    """Return the verdicts on all goals whose figures were measured."""
    verdicts = []
    for goal in goals:
        try:
            verdicts.append(Verdict(goal, goal.value(figures)))
        except KeyError:
            continue
    return verdicts


def columns(rows: Sequence[Row], names: Mapping[str, str]) -> list[str]:
    """Return what the rows have values of, in the order of *names*."""
    found = dict.fromkeys(name for row in rows for name in row.values)
    return sorted(found, key=lambda name: list(names).index(name) if name in names else len(names))


def cells(rows: Sequence[Row], names: Mapping[str, str]) -> list[list[str]]:
    """Return a table: its head, then a line for each row."""
    shown = columns(rows, names)
    head = ["", *(names.get(name, name) for name in shown)]
    return [head, *([row.label, *(number(row.values[n]) if n in row.values else "" for n in shown)] for row in rows)]


def text(table: Sequence[Sequence[str]]) -> str:
    """Return *table* for a terminal: the first column to the left, the others to the right."""
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = (
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    )
    return "\n".join(line.rstrip() for line in lines)


def markdown(table: Sequence[Sequence[str]]) -> str:
    head, *lines = table
    rule = ["---", *(["---:"] * (len(head) - 1))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])
