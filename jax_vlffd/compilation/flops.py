"""The model's FLOPs by arithmetic: what a step has to compute, whatever the program computes besides.

Products of matrices alone count, a multiplication and an addition as two FLOPs; attention counts whole,
also where it is causal, since the program computes it whole. Backward passes follow the tuning: a product
costs once more where its weight trains, and once more where a gradient goes on to its input. Recomputation
(remat, accumulation) and what is only measured (branch 3 without the image) are no work of the model, so
that their cost shows as the program's FLOPs above the model's.

The same figures serve the proof of a compiled step, the benchmark, and the utilisation in a run's logs:
utilisation = train FLOPs per image * images per second / (chips * peak FLOP/s per chip), where an image's
text has the length that was computed.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable
from dataclasses import dataclass

from jax_vlffd.clip.config import TowerConfig
from jax_vlffd.config import TUNING, LossConfig, ModelConfig, TuningConfig


@dataclass(frozen=True)
class Cost:
    """FLOPs per image. forward: of the forward pass. train: of the forward and the backward pass."""

    forward: float = 0.0
    train: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.forward + other.forward, self.train + other.train)


@dataclass(frozen=True)
class ModelFlops:
    """FLOPs per image of each part of a step.

    vision, text: the towers, the text tower as often as it runs. fusion: branch 3's block and head.
    heads: the projections and the head of branch 1, of the patches too where there are local losses.
    alignment: the similarities alone, which grow with the global batch. detector: the image branch, which is
    all that the eval step runs (its forward only).
    """

    vision: Cost
    text: Cost
    fusion: Cost
    heads: Cost
    alignment: Cost
    detector: float

    @property
    def total(self) -> Cost:
        """All parts."""
        return self.vision + self.text + self.fusion + self.heads + self.alignment


def model_flops(
    model: ModelConfig,
    loss: LossConfig,
    tuning: TuningConfig,
    *,
    batch_size: int,
    separate_captions: bool = False,
    text_length: int = 0,
) -> ModelFlops:
    """FLOPs per image of one training step, and of the detector.

    Args:
      model: the shapes.
      loss: branches of weight 0 are not computed.
      tuning: which weights get gradients.
      batch_size: global; every image is compared with as many captions.
      separate_captions: branch 3 reads captions of its own, so that the text tower runs twice.
      text_length: tokens of a text, padding among them; 0: the whole context.
    """
    vision, text, width = model.clip.vision, model.clip.text, model.clip.vision.width
    rank = model.compute.lora_rank
    patches, images, words = vision.tokens - 1, vision.tokens, text_length or text.context_length
    vision_moves, text_moves = bool(TUNING[tuning.vision]), bool(TUNING[tuning.text])
    both = loss.alignment > 0 and loss.fusion > 0
    readings = (2 if both and separate_captions else 1) if loss.uses_text else 0

    patch = _product(
        patches, 3 * vision.patch_size**2, width,
        trains="weight" in TUNING[tuning.vision], passes=False,
    )  # fmt: skip
    text_tower = _tower(text, words, tuning.text, rank)
    embed = model.clip.embed_dim
    head = _product(1, width, 2, trains=True, passes=vision_moves)
    projections = [
        _product(1, width, embed, trains=True, passes=vision_moves),
        _product(1, text.width, embed, trains=True, passes=text_moves),
    ]
    # Rows against all columns, in both directions but for the sigmoid; embeddings always get a gradient.
    directions = 1 if loss.targets == "sigmoid" else 2
    alignment = _product(directions, embed, batch_size, trains=True, passes=True)

    # The fusion block trains in every mode; its first LayerNorm wants the gradient of the query's input,
    # while keys and values read the words as the text tower gives them.
    moves = {"trains": True, "passes": True}
    fusion = [
        _product(images, width, width, **moves),
        _product(images, width, width, **moves),
        _product(words, text.width, width, trains=True, passes=text_moves),
        _product(words, text.width, width, trains=True, passes=text_moves),
        _attention(images, words, width, passes=True),
        _product(images, width, model.fusion_mlp_width, **moves),
        _product(images, model.fusion_mlp_width, width, **moves),
        _product(1, width, 2, **moves),
    ]
    branch_heads = [head] if loss.image > 0 else []
    branch_heads += projections if loss.alignment > 0 else []
    comparisons = [alignment] if loss.alignment > 0 else []
    if (
        loss.local > 0
    ):  # patches through the image branch's head; one more embedding, compared likewise
        if loss.image > 0:
            branch_heads.append(_product(patches, width, 2, trains=True, passes=vision_moves))
        branch_heads += projections[:1] if loss.alignment > 0 else []
        comparisons *= 2
    tower = _tower(vision, images, tuning.vision, rank)
    return ModelFlops(
        vision=patch + tower,
        text=_sum([text_tower] * readings),
        fusion=_sum(fusion if loss.fusion > 0 else []),
        heads=_sum(branch_heads),
        alignment=_sum(comparisons),
        detector=(patch + tower + head).forward,
    )


def _tower(config: TowerConfig, tokens: int, mode: str, lora_rank: int) -> Cost:
    """All layers; a gradient that reaches the tower goes through every one of them."""
    width, kinds = config.width, TUNING[mode]
    passes = bool(kinds)
    linear = functools.partial(_product, tokens, trains="weight" in kinds, passes=passes)
    adapter = functools.partial(_product, tokens, trains="lora" in kinds, passes=passes)
    layer = [
        *[linear(width, width)] * 4,
        *([adapter(width, lora_rank), adapter(lora_rank, width)] * 4 if lora_rank else []),
        _attention(tokens, tokens, width, passes=passes),
        linear(width, config.mlp_width),
        linear(config.mlp_width, width),
    ]
    return _sum(layer * config.layers)


def _product(rows: int, inputs: int, outputs: int, *, trains: bool, passes: bool) -> Cost:
    """[rows, inputs] x [inputs, outputs]; `passes`: whether a gradient goes on to the first factor."""
    forward = 2.0 * rows * inputs * outputs
    return Cost(forward, forward * (1 + trains + passes))


def _attention(queries: int, keys: int, width: int, *, passes: bool) -> Cost:
    """The scores and the mixing; both factors of each get a gradient."""
    forward = 2 * 2.0 * queries * keys * width
    return Cost(forward, forward * (3 if passes else 1))


def _sum(costs: Iterable[Cost]) -> Cost:
    return functools.reduce(operator.add, costs, Cost())
