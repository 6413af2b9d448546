"""How much the types of annotations say: their shares, what they tell of the method, agreement with labels.

The entropies are corrected for small samples by Miller and Madow (1955). All figures are ours; the paper has
none of this kind.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.core.tables import read_rows
from data_pipeline.fftg.refine.grounding import forged_regions
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import REGIONS, TYPES

Line = Mapping[str, Any]
TOGETHER = "all"


def entropy(values: Iterable[Hashable]) -> float:
    """The entropy of a sample in bits, at least 0, with the correction (K - 1) / 2N of Miller and Madow."""
    counts = np.array(list(Counter(values).values()), float)
    if not counts.size:
        return 0.0
    shares = counts / counts.sum()
    correction = (counts.size - 1) / (2 * counts.sum())
    return float((correction - (shares * np.log(shares)).sum()) / np.log(2))


def kappa(pairs: Sequence[tuple[bool, bool]]) -> float | None:
    """Cohen's kappa of two observers' decisions, -1 to 1; None where it is not defined (no variation)."""
    if not pairs:
        return None
    first, second = np.array(pairs, bool).T
    chance = first.mean() * second.mean() + (1 - first.mean()) * (1 - second.mean())
    return None if chance == 1 else float(((first == second).mean() - chance) / (1 - chance))


def informativeness(lines: Iterable[Line], methods: Iterable[str | None]) -> dict[str, Any]:
    """The shares of the types and what the set of types tells of the method.

    Args:
      lines: annotations with `regions`; those without regions (refused) are skipped.
      methods: the method of each annotation; those without one are skipped.

    Returns:
      `methods`: for each method and for `all`, `pairs`, `forged_regions`, `shares` (of forged regions, by
      type), `without_type` (a share), `entropy_bits` of the set of types (union over regions); and
      `mutual_information_bits` of that set with the method.

    Raises:
      UserError: no annotation has flags and a method.
    """
    groups: dict[str, list[list[frozenset[str]]]] = {}
    for line, method in zip(lines, methods, strict=True):
        if line.get("regions") and method is not None:
            groups.setdefault(method, []).append(_types(line))
    if not groups:
        raise UserError(
            "no annotation has both regions and a method: compare their `fake` with the table's"
        )
    result = {name: _summary(group) for name, group in sorted(groups.items())}
    result[TOGETHER] = _summary([pair for group in groups.values() for pair in group])
    sample = [(_union(pair), name) for name, group in groups.items() for pair in group]
    information = (
        entropy(types for types, _ in sample)
        + entropy(name for _, name in sample)
        - entropy(sample)
    )
    return {"methods": result, "mutual_information_bits": information}


def methods_of(lines: Iterable[Line], path: Path, folder: Path) -> list[str | None]:
    """The method of each annotation, None where the table does not know its fake.

    Args:
      lines: annotations with `fake`.
      path: CSV with `fake` (relative to the CSV) and `method`.
      folder: that paths in the lines are relative to.

    Raises:
      UserError: the CSV cannot be read or lacks a column.
    """
    rows = read_rows(path, "fake", "method")
    table = {str((path.parent / row["fake"]).resolve()): row["method"] for row in rows}
    return [table.get(str((folder / str(line.get("fake"))).resolve())) for line in lines]


def agreement(lines: Iterable[Line], labels: Iterable[Line]) -> dict[str, dict[str, Any]]:
    """Kappa of annotations with labels, both with `id` and `regions`, over the ids that both have.

    Returns:
      For each region, `forged` and each type: `kappa`, `pairs`, and `cases` (those that the label has).
    """
    given = {str(line["id"]): line["regions"] for line in lines if line.get("regions")}
    both = [
        (given[str(label["id"])], label["regions"]) for label in labels if str(label["id"]) in given
    ]
    return {
        region: {
            name: _compared([(_has(a, region, name), _has(b, region, name)) for a, b in both])
            for name in ("forged", *TYPES)
        }
        for region in REGIONS
    }


def _types(line: Line) -> list[frozenset[str]]:
    return [frozenset(types) for types in forged_regions(line).values()]


def _union(pair: list[frozenset[str]]) -> frozenset[str]:
    return frozenset().union(*pair)


def _summary(pairs: list[list[frozenset[str]]]) -> dict[str, Any]:
    regions = [types for pair in pairs for types in pair]
    count = max(len(regions), 1)
    return {
        "pairs": len(pairs),
        "forged_regions": len(regions),
        "shares": {name: sum(name in types for types in regions) / count for name in TYPES},
        "without_type": sum(not types for types in regions) / count,
        "entropy_bits": entropy(_union(pair) for pair in pairs),
    }


def _has(regions: Mapping[str, Any], region: str, name: str) -> bool:
    values = regions[region]
    return bool(values["forged"]) and (name == "forged" or name in values["types"])


def _compared(decisions: list[tuple[bool, bool]]) -> dict[str, Any]:
    cases = sum(label for _, label in decisions)
    return {"kappa": kappa(decisions), "pairs": len(decisions), "cases": cases}
