"""What a sweep found: a sorted table as CSV, cells and HTML, and a plot of the metric for each swept key."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jax_vlffd.reports import charts
from jax_vlffd.reports import render as page
from jax_vlffd.reports.render import Markup, element

#: The metrics of a sweep's table, and whether more is better.
METRICS: Final = {
    "frame_auc": True,
    "video_auc": True,
    "ap": True,
    "eer": False,
    "acc": True,
    "acc_calibrated": True,
    "ece_calibrated": False,
}
_TITLES: Final = {
    "frame_auc": "Frame AUC",
    "video_auc": "Video AUC",
    "ap": "AP",
    "eer": "EER",
    "acc": "Acc. at 0.5",
    "acc_calibrated": "Acc. at threshold",
    "ece_calibrated": "ECE, calibrated",
}
_NONE: Final = "\u2013"  # en dash


@dataclass(frozen=True)
class Row:
    """One run.

    run: its id. index: its place in the sweep. label: what it changes, in words. status: 'done', 'failed',
    ... settings: the value of every key that the sweep changes anywhere, the recipe's where this run leaves
    it. sets: as in `metrics.json`, set -> metrics with `intervals`; empty when not evaluated. facts: further
    columns, such as seconds. message: why it failed.
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
        """The metric on one set; without a set, the mean over all, None when any lacks it."""
        names = [set_name] if set_name is not None else list(self.sets)
        values = [self.sets.get(name, {}).get(metric) for name in names]
        known = [float(value) for value in values if value is not None]
        return sum(known) / len(known) if known and len(known) == len(values) else None

    def interval(self, metric: str, set_name: str | None = None) -> tuple[float, float] | None:
        """The metric's interval on one set; without a set, only where there is one set."""
        name = set_name if set_name is not None else next(iter(self.sets), "")
        if set_name is None and len(self.sets) != 1:
            return None
        pair = self.sets.get(name, {}).get("intervals", {}).get(metric)
        return (float(pair[0]), float(pair[1])) if pair else None


def ordered(rows: Iterable[Row], metric: str) -> list[Row]:
    """The best first by the metric's mean over the sets; runs without it last, as the sweep lists them."""
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
        writer.writerow([row.index, row.run, row.status, *values, *numbers, *others, row.message])
    return out.getvalue()


def cells(rows: Sequence[Row], metric: str) -> list[list[str]]:
    """The table for a terminal, its header first: rank, what is changed, the metric on each set, status."""
    rows = ordered(rows, metric)
    sets = _sets(rows)
    table = [["rank", "changed", *(f"{name}: {_TITLES[metric]}" for name in sets), "status"]]
    for rank, row in enumerate(rows, 1):
        status = row.status + (f": {row.message}" if row.message else "")
        table.append([str(rank), row.label, *(_shown(row, metric, name) for name in sets), status])
    return table


def _shown(row: Row, metric: str, name: str) -> str:
    value, interval = row.value(metric, name), row.interval(metric, name)
    if value is None:
        return _NONE
    return f"{value:.3f}" + (f" [{interval[0]:.3f}, {interval[1]:.3f}]" if interval else "")


def render(title: str, rows: Sequence[Row], metric: str, facts: Mapping[str, str]) -> str:
    """The page: facts, the sorted table, a plot for each swept key. Loads nothing, runs no script."""
    rows = ordered(rows, metric)
    sets = _sets(rows)
    listed = element(
        "dl",
        *[element("div", element("dt", k), element("dd", v)) for k, v in facts.items()],
        class_="facts",
    )
    body = [element("h1", title), listed, element("h2", "Runs, the best first")]
    header = ["Changed", "Status"]
    measured = [
        (name, m)
        for name in sets
        for m in METRICS
        if any(r.value(m, name) is not None for r in rows)
    ]
    header += [(f"{name}: " if len(sets) > 1 else "") + _TITLES[m] for name, m in measured]
    keys = list(dict.fromkeys(key for row in rows for key in row.facts))
    header += [key.replace("_", " ").capitalize() for key in keys]
    cells: list[list[str]] = []
    for row in rows:
        told = [row.label, row.status]
        told += [_cell(row, m, name) for name, m in measured]
        told += ["" if row.facts.get(key) is None else f"{row.facts[key]:,}" for key in keys]
        cells.append(told)
    body.append(page.table(header, cells, names=2))
    body.append(
        element(
            "p",
            f"Sorted by {_TITLES[metric]}" + (", the mean over the sets" if len(sets) > 1 else "")
            + ". Small figures are 95 % bootstrap intervals over videos of the evaluated set: they say "
            "nothing of how another seed of the training would have turned out. The best of many runs is "
            "chosen by these very figures and so looks better than it is.",
            class_="note",
        )
    )  # fmt: skip
    failed = [row for row in rows if row.message]
    if failed:
        body.append(element("h2", "Failed"))
        body.append(page.table(["Run", "Why"], [[r.run, r.message] for r in failed], names=2))
    plots = [
        page.figure(f"{_TITLES[metric]} on {name}, by {keys_}", drawing)
        for name in sets
        for keys_, drawing in _plots(rows, metric, name)
    ]
    if plots:
        body += [element("h2", "By what is changed"), page.charts(plots)]
        body.append(
            element(
                "p",
                "A dot is a run with its interval; the line joins the means. Values stand in order, not to "
                "scale, and runs that differ in other keys stand in one column.",
                class_="note",
            )
        )
    return page.document(title, body)


def _cell(row: Row, metric: str, name: str) -> Markup:
    value, interval = row.value(metric, name), row.interval(metric, name)
    if value is None:
        return Markup(_NONE)
    shown = page.text(f"{value:.3f}")
    if interval is None:
        return shown
    return page.join([shown, element("small", f"{interval[0]:.3f} to {interval[1]:.3f}")])


def _plots(rows: Sequence[Row], metric: str, name: str) -> list[tuple[str, str]]:
    """A drawing for each swept key; keys that always change together share one."""
    shown = [row for row in rows if row.value(metric, name) is not None]
    groups: dict[tuple[int, ...], list[str]] = {}
    for key in dict.fromkeys(key for row in rows for key in row.settings):
        values = [_word(row.settings[key]) for row in shown]
        numbered = tuple(values.index(value) for value in values)
        if len(set(numbered)) > 1:
            groups.setdefault(numbered, []).append(key)
    drawn = []
    for keys in groups.values():
        ticks = _ticks([row.settings[keys[0]] for row in shown])
        columns: list[list[charts.Dot]] = [[] for _ in ticks]
        for row in sorted(shown, key=lambda row: row.index):
            value = row.value(metric, name)
            assert value is not None
            dot = charts.Dot(value, row.interval(metric, name), row.label)
            columns[ticks.index(_word(row.settings[keys[0]]))].append(dot)
        title = ", ".join(keys)
        axis = charts.Axis(_TITLES[metric])
        drawn.append((title, charts.dot_chart(title, list(zip(ticks, columns, strict=True)), axis)))
    return drawn


def _ticks(values: Sequence[Any]) -> list[str]:
    """The distinct values in words, numbers by size and others as they come."""
    distinct = list({_word(value): value for value in values}.values())
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in distinct):
        distinct.sort()
    return [_word(value) for value in distinct]


def _word(value: Any) -> str:
    if value is None or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
