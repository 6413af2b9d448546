"""One list of rules for every parameter: whether it trains and decays, and how it is split over the mesh.

The first rule that matches a parameter's path decides; a parameter without a rule is an error, so that nothing
new is silently frozen, decayed or replicated.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_vlffd.config import TUNING
from jax_vlffd.errors import UserError


@dataclass(frozen=True)
class Rule:
    """Training and sharding of the parameters whose full path matches `pattern`.

    part: 'vision', 'text' or 'head' (everything outside the towers); selects the tuning mode and the scale of
    the learning rate. Heads always train. kind: 'weight', 'layernorm' or 'lora'. shard: mesh axes of the
    last dimensions; leading ones (the layers) are not split. decay: whether weight decay applies.
    """

    pattern: str
    part: str
    kind: str = "weight"
    shard: tuple[str | None, ...] = ()
    decay: bool = False


def _tower(part: str) -> tuple[Rule, ...]:
    blocks = f"{part}/blocks"
    return (
        Rule(rf"{blocks}/layernorm\d/(scale|bias)", part, "layernorm"),
        Rule(rf"{part}/(pre|post)_layernorm/(scale|bias)", part, "layernorm"),
        Rule(rf"{blocks}/attention/\w+/lora_[ab]", part, "lora", decay=True),
        # Megatron's split: the first product of a pair by its outputs, the second by its inputs.
        Rule(rf"{blocks}/(attention/(query|key|value)|mlp/fc1)/weight", part, "weight",
             ("tensor", "fsdp"), decay=True),
        Rule(rf"{blocks}/(attention/out|mlp/fc2)/weight", part, "weight",
             ("fsdp", "tensor"), decay=True),
        Rule(rf"{blocks}/(attention/(query|key|value)|mlp/fc1)/bias", part, "weight", ("tensor",)),
        Rule(rf"{blocks}/(attention/out|mlp/fc2)/bias", part),
        Rule(rf"{part}/position_embedding", part),
    )  # fmt: skip


RULES: tuple[Rule, ...] = (
    *_tower("vision"),
    Rule(r"vision/patch_embedding/weight", "vision", "weight", ("fsdp", None), decay=True),
    Rule(r"vision/(class_embedding|patch_embedding/bias)", "vision"),
    *_tower("text"),
    # By width, not by word: a lookup in a table split by word would gather the table.
    Rule(r"text/token_embedding", "text", "weight", (None, "fsdp"), decay=True),
    Rule(r"fusion/layernorm\d/(scale|bias)", "head", "layernorm"),
    Rule(r"fusion/(attention/(query|key|value)|mlp/fc1)/weight", "head", "weight",
         ("tensor", "fsdp"), decay=True),
    Rule(r"fusion/(attention/out|mlp/fc2)/weight", "head", "weight", ("fsdp", "tensor"), decay=True),
    Rule(r"fusion/.*/bias", "head"),
    Rule(r"(visual|text)_projection/weight", "head", "weight", (None, "fsdp"), decay=True),
    Rule(r"(image|fusion)_head/weight", "head", decay=True),
    Rule(r"(image|fusion)_head/bias", "head"),
    Rule(r"logit_(scale|bias)", "head"),
)  # fmt: skip


def match_rules(paths: Iterable[str], rules: tuple[Rule, ...] = RULES) -> dict[str, Rule]:
    """The rule of every parameter path.

    Raises:
      UserError: a path that no rule matches.
    """
    matched: dict[str, Rule] = {}
    for path in paths:
        rule = next((rule for rule in rules if re.fullmatch(rule.pattern, path)), None)
        if rule is None:
            raise UserError(f"parameter {path} matches no rule; add one to RULES in {__name__}")
        matched[path] = rule
    return matched


def trainable_paths(matched: Mapping[str, Rule], *, vision: str, text: str) -> frozenset[str]:
    """The paths that train, for the tuning modes of the two towers (keys of TUNING)."""
    kinds = {"vision": TUNING[vision], "text": TUNING[text]}
    return frozenset(
        path
        for path, rule in matched.items()
        if rule.part == "head" or rule.kind in kinds[rule.part]
    )


def parameter_shardings(
    shapes: Mapping[str, jax.ShapeDtypeStruct], matched: Mapping[str, Rule], mesh: Mesh
) -> dict[str, NamedSharding]:
    """The sharding of each parameter.

    A dimension that its mesh axis does not divide is not split.

    Raises:
      UserError: fsdp or tensor is above 1, but less than half of the parameters can be split.
    """
    result, split, total = {}, 0, 0
    for path, shape in shapes.items():
        axes = matched[path].shard
        spec: list[str | None] = [*(None for _ in shape.shape[len(axes) :]), *axes]
        for i, axis in enumerate(spec):
            if axis is not None and shape.shape[i] % mesh.shape[axis]:
                spec[i] = None
        result[path] = NamedSharding(mesh, P(*spec))
        total += shape.size
        split += shape.size if any(a and mesh.shape[a] > 1 for a in spec) else 0
    if mesh.shape["fsdp"] * mesh.shape["tensor"] > 1 and 2 * split < total:
        raise UserError(
            f"only {split / total:.0%} of the parameters divide over mesh.fsdp={mesh.shape['fsdp']} x "
            f"mesh.tensor={mesh.shape['tensor']}; choose sizes that divide the model's widths"
        )
    return result
