"""Agreement of the labels by eye with each other, or of annotations with them (`benchmarks/labels`).

  python -m benchmarks.label_agreement
  python -m benchmarks.label_agreement large.jsonl [held_out]

Annotations are those of `launch.annotate` on `ffpp_crops_large/pairs.csv`. They are compared with the split
`development` unless `held_out` is named, which is for one score at the end. All of it is ours.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from data_pipeline.fftg.informativeness import agreement
from jax_vlffd.jsonl import read_lines
from jax_vlffd.vocabulary import TYPES

LABELS: Final = Path(__file__).parent / "labels" / "ffpp_types.jsonl"


def read_labels() -> list[dict[str, Any]]:
    """One label for each pair and observer, with `id`, `split`, `observer` and `regions`."""
    return [json.loads(line) for line in LABELS.read_text("utf-8").splitlines()]


def between_observers(labels: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """`informativeness.agreement` over every two observers of a pair, each of them in both roles."""
    by_pair = defaultdict(list)
    for label in labels:
        by_pair[label["id"]].append(label["regions"])
    couples = [both for group in by_pair.values() for both in itertools.permutations(group, 2)]
    first, second = (
        [{"id": number, "regions": both[side]} for number, both in enumerate(couples)]
        for side in (0, 1)
    )
    return agreement(first, second)


def main(annotations: str = "", split: str = "development") -> None:
    """Prints kappa, and in brackets the share of the labels that have it, by region and type."""
    labels = read_labels()
    if annotations:
        chosen = [label for label in labels if label["split"] == split]
        result = agreement(read_lines(Path(annotations)), chosen)
    else:
        result = between_observers(labels)
    print("| region | forged |", " | ".join(TYPES), "|")
    for region, values in result.items():
        cells = []
        for value in values.values():
            kappa = "n/a" if value["kappa"] is None else f"{value['kappa']:.2f}"
            cells.append(f"{kappa} ({value['cases'] / max(value['pairs'], 1):.2f})")
        print("|", region, "|", " | ".join(cells), "|")


if __name__ == "__main__":
    main(*sys.argv[1:])
