"""Texts as long as a batch needs, not as long as the context (ours).

What follows a text's end changes nothing: the text tower is causal and pools at the end, and branch 3 masks
the rest. Yet it is computed, and captions of a third of the context are usual. So a batch's texts are cut
behind the end of the longest, rounded up to `compute.pad_to_multiple_of`; each length that comes up is a
compiled program of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from jax_vlffd.training.processes import Alone
from jax_vlffd.training.state import StepSpec

FIELDS = ("tokens", "fused_tokens")


def needed(batch: Mapping[str, np.ndarray], spec: StepSpec) -> int:
    """Tokens of a text that a step has to compute for this process's share of a batch.

    Args:
      batch: int32 [B, T] `tokens` and `fused_tokens` with the end token at least once in a row.
      spec: the model's context length T and end token, and a multiple of at least 1.
    """
    text, multiple = spec.model.clip.text, spec.model.compute.pad_to_multiple_of
    longest = max(int((batch[name] == text.eos_id).argmax(axis=1).max()) for name in FIELDS) + 1
    return min(-(-longest // multiple) * multiple, text.context_length)


def shortened(
    batch: Mapping[str, np.ndarray], spec: StepSpec, peers: Alone
) -> tuple[dict[str, np.ndarray], int]:
    """The batch with its texts cut to what the longest of any process needs, and that length.

    They stay as they are where the multiple is 0 or no loss reads them.
    """
    if not spec.model.compute.pad_to_multiple_of or not spec.loss.uses_text:
        return dict(batch), spec.model.clip.text.context_length
    length = max(peers.exchange(needed(batch, spec)))
    cut = {name: value[:, :length] if name in FIELDS else value for name, value in batch.items()}
    return cut, length
