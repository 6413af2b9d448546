"""The thresholds of the forgery types in one region: by itself, and relative to the other types.

All of it is ours. A type is said if it sets the region apart: its score must exceed its threshold, and in
multiples of that threshold it must not be dwarfed by the strongest type, which changes the others a little too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from data_pipeline.fftg.measure.thresholds import AnnotatorSettings

#: Thresholds as multiples of the settings, on organs and on skin. Not settings themselves: paid replies are
#: stored by the settings' values.
_ON_ORGANS: Final = {
    "color": 0.9, "blur": 1.0, "structure": 1.0, "texture": 0.73, "boundary": 0.8,
}  # fmt: skip
_ON_SKIN: Final = {
    "color": 0.64, "blur": 0.9, "structure": 0.5, "texture": 0.73, "boundary": 1.2,
}  # fmt: skip
#: Multiple of a type's threshold that it must reach for each multiple that the strongest type reaches.
_OF_STRONGEST: Final = 0.22


def multiples(region: str) -> dict[str, float]:
    """What the types' thresholds in a region are, as multiples of the settings."""
    return dict(_ON_SKIN if region == "face" else _ON_ORGANS)


def type_thresholds(region: str, settings: AnnotatorSettings) -> dict[str, float]:
    """The threshold of every type in a region by itself, in the units of `AnnotatorSettings`."""
    return {kind: settings.threshold(kind) * factor for kind, factor in multiples(region).items()}


def beside_others(scores: Mapping[str, float], thresholds: Mapping[str, float]) -> dict[str, float]:
    """The thresholds of the types in one region, raised where another type is much stronger.

    Args:
      scores: of every type, see `artifacts.scores`.
      thresholds: of `type_thresholds`, all above 0.

    Returns:
      {type: threshold}, none lower than before; that of the strongest type is as before.
    """
    strongest = max(scores[kind] / thresholds[kind] for kind in thresholds)
    factor = max(1.0, _OF_STRONGEST * strongest)
    return {
        kind: value if scores[kind] == strongest * value else value * factor
        for kind, value in thresholds.items()
    }
