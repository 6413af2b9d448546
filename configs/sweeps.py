"""Sweeps: lists of overrides ({dotted key: value}), and the four functions that build them.

A recipe with a sweep has `get_sweep()`, which returns such a list; `launch.sweep` makes a run of each:

    def get_sweep() -> Sweep:
        return product(each("optim.learning_rate", [1e-4, 3e-4]), each("seed", range(3)))
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

Overrides = dict[str, Any]
Sweep = list[Overrides]


def each(key: str, values: Iterable[Any]) -> Sweep:
    """One run for each value of one key."""
    return [{key: value} for value in values]


def product(*sweeps: Iterable[Overrides]) -> Sweep:
    """Every combination; the first sweep changes slowest."""
    return [_join(parts) for parts in itertools.product(*sweeps)]


def zip_(*sweeps: Iterable[Overrides]) -> Sweep:
    """The first of each together, then the second of each, and so on; all are of one length."""
    parts = [list(sweep) for sweep in sweeps]
    lengths = {len(part) for part in parts}
    if len(lengths) > 1:
        raise ValueError(f"zip_ of sweeps of different lengths: {sorted(lengths)}")
    return [_join(row) for row in zip(*parts, strict=True)]


def chain(*sweeps: Iterable[Overrides]) -> Sweep:
    """One sweep after the other, without repeating a run."""
    sweep: Sweep = []
    for overrides in itertools.chain(*sweeps):
        if overrides not in sweep:
            sweep.append(dict(overrides))
    return sweep


def ablation(lora_rank: int = 8, local: float = 1.0) -> Sweep:
    """The method's parts, one changed at a time: branches, local losses, captions, tuning modes.

    The unchanged recipe comes first. Branches (the paper's three): image and alignment, image and fusion,
    image alone. Captions: as annotated before refinement, and the verdict's sentence alone, where the recipe
    itself reads the refined ones. Tuning modes of both towers; they mean something from pretrained weights
    only. The choice of runs is ours.

    Args:
      lora_rank: of the adapters in the 'lora' run.
      local: weight of the local losses in the one run that has another than the recipe's own.
    """

    def tuned(mode: str, **more: Any) -> Overrides:
        return {"tuning.vision": mode, "tuning.text": mode, **more}

    branches = [
        {},
        {"loss.fusion": 0.0},
        {"loss.alignment": 0.0},
        {"loss.alignment": 0.0, "loss.fusion": 0.0},
        {"loss.local": local},
    ]
    captions = each("data.captions", ["raw", "label_only"])
    modes = [
        tuned("layernorm"),
        tuned("lora", **{"compute.lora_rank": lora_rank}),
        tuned("frozen"),
    ]
    return chain(branches, captions, modes)


def _join(parts: Iterable[Overrides]) -> Overrides:
    result: Overrides = {}
    for part in parts:
        if twice := result.keys() & part.keys():
            raise ValueError(f"two sweeps that are joined both set {', '.join(sorted(twice))}")
        result |= part
    return result
