"""Results of a sweep: a sorted table as CSV, terminal cells and HTML, and a plot for each swept key."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jax_vlffd.evaluation.scores import for_spreadsheets
from jax_vlffd.reports import charts
from jax_vlffd.reports.render import METRIC_TITLES, Cell, Figure, Table, number, page

#: Metrics of a sweep's table, and whether higher is better.
METRICS: Final = {
    "frame_auc": True,
    "video_auc": True,
    "ap": True,
    "eer": False,
    "acc": True,
    "acc_calibrated": True,
    "ece_calibrated": False,
}


@dataclass(frozen=True)
class Row:
    """One run of the table.

    run: its id. index: its position in the sweep. label: its overrides in words. status: 'done', 'failed', ...
    settings: the run's value of every key that the sweep changes. sets: as in `metrics.json`, set -> metrics
    with `intervals`; empty when not evaluated. facts: further columns, such as seconds. message: why it failed.
    """

    run: str
    index: int
    label: str
    status: str
    settings: Mapping[str, Any]
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    message: str = ""

    def value(self, metric: str, set_name: str | None = None) -> float | None:
        """The metric on one set, or its mean over all sets; None where a set lacks it."""
        names = [set_name] if set_name is not None else list(self.sets)
        values = [self.sets.get(name, {}).get(metric) for name in names]
        known = [float(value) for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def interval(self, metric: str, set_name: str | None = None) -> tuple[float, float] | None:
        """The metric's interval on one set; without a name, of the only set, else None."""
        name = set_name if set_name is not None else next(iter(self.sets), "")
        if set_name is None and len(self.sets) != 1:
            return None
        pair = self.sets.get(name, {}).get("intervals", {}).get(metric)
        return (float(pair[0]), float(pair[1])) if pair else None


def ordered(rows: Iterable[Row], metric: str) -> list[Row]:
    """Sorts by the metric's mean over the sets, the best first; runs without it last, by index."""
    sign = -1 if METRICS[metric] else 1

    def key(row: Row) -> tuple[bool, float, int]:
        value = row.value(metric)
        return value is None, 0.0 if value is None else sign * value, row.index

    return sorted(rows, key=key)


def _sets(rows: Iterable[Row]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row.sets))


def to_csv(rows: Sequence[Row], metric: str) -> str:
    """The table as CSV: every metric of every set with its interval, the best run first."""
    rows = ordered(rows, metric)
    keys = list(dict.fromkeys(key for row in rows for key in row.settings))
    facts = list(dict.fromkeys(key for row in rows for key in row.facts))
    measured = [
        f"{name}:{measure}{end}"
        for name in _sets(rows)
        for measure in METRICS
        for end in ("", ":low", ":high")
    ]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["index", "run", "status", *keys, *measured, *facts, "message"])
    for row in rows:
        numbers: list[Any] = []
        for name in _sets(rows):
            for measure in METRICS:
                numbers.append(row.value(measure, name))
                numbers += row.interval(measure, name) or (None, None)
        values = [row.settings.get(key) for key in keys]
        others = [row.facts.get(key) for key in facts]
        cells = [row.index, row.run, row.status, *values, *numbers, *others, row.message]
        writer.writerow(map(for_spreadsheets, cells))
    return out.getvalue()


def cells(rows: Sequence[Row], metric: str) -> list[list[str]]:
    """The table for a terminal, header first: rank, overrides, the metric on each set, status."""
    rows = ordered(rows, metric)
    sets = _sets(rows)
    table = [["rank", "changed", *(f"{name}: {METRIC_TITLES[metric]}" for name in sets), "status"]]
    for rank, row in enumerate(rows, 1):
        status = row.status + (f": {row.message}" if row.message else "")
        table.append(
            [str(rank), row.label, *(_value_text(row, metric, name) for name in sets), status]
        )
    return table


def _value_text(row: Row, metric: str, name: str) -> str:
    value, interval = row.value(metric, name), row.interval(metric, name)
    if value is None:
        return "\u2013"  # en dash
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def render(title: str, rows: Sequence[Row], metric: str, facts: Mapping[str, str]) -> str:
    """The HTML page: facts, the sorted table, a plot for each swept key."""
    rows = ordered(rows, metric)
    sets = _sets(rows)
    measured = [
        (name, measure)
        for name in sets
        for measure in METRICS
        if any(row.value(measure, name) is not None for row in rows)
    ]
    keys = list(dict.fromkeys(key for row in rows for key in row.facts))
    header = ["Changed", "Status"]
    header += [(f"{name}: " if len(sets) > 1 else "") + METRIC_TITLES[m] for name, m in measured]
    header += [key.replace("_", " ").capitalize() for key in keys]
    cells: list[list[str | Cell]] = [
        [
            row.label,
            row.status,
            *(number(row.value(m, name), row.interval(m, name)) for name, m in measured),
            *("" if row.facts.get(key) is None else f"{row.facts[key]:,}" for key in keys),
        ]
        for row in rows
    ]
    return page(
        "sweep.html.j2",
        title=title,
        facts=facts,
        table=Table(header, cells, names=2),
        metric=METRIC_TITLES[metric],
        sets=len(sets),
        failed=Table(["Run", "Why"], [[r.run, r.message] for r in rows if r.message], names=2),
        plots=[figure for name in sets for figure in _plots(rows, metric, name)],
    )


def _plots(rows: Sequence[Row], metric: str, name: str) -> list[Figure]:
    """A chart for each swept key; keys that always change together share one."""
    shown = [row for row in rows if row.value(metric, name) is not None]
    groups: dict[tuple[int, ...], list[str]] = {}
    for key in dict.fromkeys(key for row in rows for key in row.settings):
        values = [_text(row.settings[key]) for row in shown]
        numbered = tuple(values.index(value) for value in values)
        if len(set(numbered)) > 1:
            groups.setdefault(numbered, []).append(key)
    drawn = []
    for keys in groups.values():
        ticks = _ticks([row.settings[keys[0]] for row in shown])
        columns: list[list[charts.Value]] = [[] for _ in ticks]
        for row in sorted(shown, key=lambda row: row.index):
            dot = charts.Value(row.value(metric, name), row.interval(metric, name), row.label)
            columns[ticks.index(_text(row.settings[keys[0]]))].append(dot)
        title = f"{METRIC_TITLES[metric]} on {name}, by {', '.join(keys)}"
        axis = charts.Axis(METRIC_TITLES[metric])
        chart = charts.dot_chart(title, list(zip(ticks, columns, strict=True)), axis)
        drawn.append(Figure(title, chart))
    return drawn


def _ticks(values: Sequence[Any]) -> list[str]:
    """The distinct values as text, numbers in order of size, others in order of occurrence."""
    distinct = list({_text(value): value for value in values}.values())
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct):
        distinct.sort()
    return [_text(value) for value in distinct]


def _text(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
