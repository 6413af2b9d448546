"""The rules: every parameter has one, and what trains, decays and is split follows from it."""

from __future__ import annotations

import functools
import itertools

import jax
import numpy as np
import pytest

from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.config import LossConfig, MeshConfig, ModelConfig, OptimConfig, TuningConfig
from jax_vlffd.errors import UserError
from jax_vlffd.model import graph_and_shapes
from jax_vlffd.training import parameter_rules
from jax_vlffd.training.sharding import make_mesh, to_devices
from jax_vlffd.training.step import make_train_step
from tests.support import tiny

RANK = 2
HEADS = {
    "fusion", "fusion_head", "image_head", "logit_scale", "text_projection", "visual_projection",
}  # fmt: skip
ADAPTED = {
    f"attention/{name}/lora_{side}"
    for name, side in itertools.product(("query", "key", "value", "out"), "ab")
}
NORMS = {f"layernorm{n}/{name}" for n, name in itertools.product((1, 2), ("scale", "bias"))}


def first(path: str) -> str:
    return path.split("/")[0]


def rest(path: str) -> str:
    """Of a tower's parameter, less the tower and `blocks`."""
    return path.split("/", 1)[1].removeprefix("blocks/")


def tower(trainable: frozenset[str], name: str) -> set[str]:
    return {rest(path) for path in trainable if first(path) == name}


# --- which parameters train ---


@pytest.mark.parametrize("part", ["vision", "text"])
def test_the_tuning_mode_of_one_tower_decides_for_that_tower_alone(part: str) -> None:
    shapes = graph_and_shapes(tiny.model(lora_rank=RANK))[1]
    every = {rest(path) for path in shapes if first(path) == part}
    outer = {"post_layernorm/scale", "post_layernorm/bias"}
    if part == "vision":
        outer |= {"pre_layernorm/scale", "pre_layernorm/bias"}
    wanted = {
        "full": every - ADAPTED,
        "layernorm": NORMS | outer,
        "lora": ADAPTED,
        "frozen": set(),
    }
    other = {"vision": "text", "text": "vision"}[part]
    for mode, expected in wanted.items():
        tuning = TuningConfig(**{part: mode, other: "frozen"})
        trainable = tiny.plan(tuning=tuning, lora_rank=RANK).trainable
        assert tower(trainable, part) == expected, mode
        assert tower(trainable, other) == set()
        assert {first(path) for path in trainable} - {part} == HEADS


def test_only_what_a_branch_reads_trains() -> None:
    def parts(**weights: float | str) -> set[str]:
        loss = LossConfig(**{"image": 0.0, "alignment": 0.0, "fusion": 0.0} | weights)  # type: ignore[arg-type]
        return {first(path) for path in tiny.plan(loss=loss).trainable}

    towers = {"vision", "text"}
    projections = {"visual_projection", "text_projection"}
    assert parts(image=1.0) == {"vision", "image_head"}
    assert parts(alignment=1.0) == towers | projections | {"logit_scale"}
    assert parts(alignment=1.0, targets="sigmoid") == towers | projections | {
        "logit_scale", "logit_bias",
    }  # fmt: skip
    assert parts(fusion=1.0) == towers | {"fusion", "fusion_head"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuning", "loss"),
    [
        (TuningConfig("layernorm", "lora"), LossConfig()),
        pytest.param(TuningConfig("frozen", "full"), LossConfig(fusion=0), marks=pytest.mark.slow),
        pytest.param(TuningConfig("full", "layernorm"), LossConfig(0, 1, 0, "sigmoid"), marks=pytest.mark.slow),
        (TuningConfig("full", "full"), LossConfig(alignment=0, fusion=0)),
    ],
)  # fmt: skip
def test_frozen_parameters_stay_bitwise_and_have_no_moments(
    tuning: TuningConfig, loss: LossConfig
) -> None:
    rank = RANK if "lora" in (tuning.vision, tuning.text) else 0
    plan = tiny.plan(
        tuning=tuning, loss=loss, lora_rank=rank,
        optim=OptimConfig(learning_rate=1e-2, weight_decay=0.5),
    )  # fmt: skip
    step, state = make_train_step(plan), tiny.state(plan)
    before = tiny.start(rank)
    moments = {
        path[-1].key
        for path, leaf in jax.tree_util.tree_leaves_with_path(state.optimizer)
        if path and hasattr(path[-1], "key")
    }
    assert moments == plan.trainable
    # The second adapter starts at 0, so the first one has a gradient from the second step on.
    for n in range(2):
        state, _ = step(state, to_devices(tiny.batch(n), plan.mesh))
    moved = {p for p, v in before.items() if not np.array_equal(v, state.parameters[p])}
    assert moved == plan.trainable


# --- every parameter has a rule ---


def test_a_parameter_without_a_rule_is_an_error() -> None:
    with pytest.raises(UserError, match="parameter vision/gate matches no rule"):
        parameter_rules.match_rules(["image_head/weight", "vision/gate"])


def test_rules_match_whole_paths() -> None:
    with pytest.raises(UserError, match="more/image_head/weight"):
        parameter_rules.match_rules(["more/image_head/weight"])
    with pytest.raises(UserError, match="image_head/weight2"):
        parameter_rules.match_rules(["image_head/weight2"])


def test_the_first_rule_that_matches_decides() -> None:
    one, two = parameter_rules.Rule("a/.*", "head"), parameter_rules.Rule("a/b", "vision")
    assert parameter_rules.match_rules(["a/b"], (one, two)) == {"a/b": one}
    assert parameter_rules.match_rules(["a/b"], (two, one)) == {"a/b": two}


ARCHITECTURES = ("b32", "l14", "laion_bigg14", "vit_tiny")


@functools.cache
def shapes_of(name: str) -> dict[str, jax.ShapeDtypeStruct]:
    clip = getattr(CLIPConfig, name)()
    heads = 3 if name == "vit_tiny" else 8
    return graph_and_shapes(ModelConfig(clip, fusion_heads=heads))[1]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_weights_decay_and_the_rest_does_not(name: str) -> None:
    for path, rule in parameter_rules.match_rules(shapes_of(name)).items():
        embeds = path in ("text/token_embedding",)
        assert rule.decay == (path.endswith("/weight") or embeds), path
        assert (rule.kind == "layernorm") == ("layernorm" in path), path
        assert rule.part == (first(path) if first(path) in ("vision", "text") else "head"), path


def test_every_rule_is_of_some_parameter() -> None:
    paths = set(shapes_of("l14")) | set(shapes_of("vit_tiny"))
    paths |= set(graph_and_shapes(tiny.model(lora_rank=RANK))[1])
    assert set(parameter_rules.match_rules(paths).values()) == set(parameter_rules.RULES)


# --- where parameters lie ---


@pytest.mark.parametrize("sizes", [(2, 4, 1), (4, 1, 2), (2, 2, 2), (1, 8, 1)])
def test_the_large_parameters_are_split_over_the_whole_of_fsdp_and_tensor(
    sizes: tuple[int, int, int],
) -> None:
    shapes, mesh = shapes_of("l14"), make_mesh(MeshConfig(*sizes))
    places = parameter_rules.parameter_shardings(shapes, parameter_rules.match_rules(shapes), mesh)
    share = {
        path: np.prod(places[path].shard_shape(shape.shape)) / shape.size
        for path, shape in shapes.items()
        if shape.size
    }
    ways = sizes[1] * sizes[2]
    blocks = [p for p in shapes if "blocks" in p and p.endswith("/weight")]
    assert len(blocks) == 12
    assert all(share[path] == pytest.approx(1 / ways) for path in blocks)
    held = sum(share[path] * shape.size for path, shape in shapes.items())
    assert held < 1.1 / ways * sum(s.size for s in shapes.values()) or sizes[1] == 1


def test_megatrons_split_needs_one_exchange_a_pair_of_products() -> None:
    """The first product is split by its outputs, the second by its inputs, over the same axis."""
    shapes, mesh = shapes_of("b32"), make_mesh(MeshConfig(4, 1, 2))
    places = parameter_rules.parameter_shardings(shapes, parameter_rules.match_rules(shapes), mesh)
    for one, two in (("attention/query", "attention/out"), ("mlp/fc1", "mlp/fc2")):
        first_spec = places[f"vision/blocks/{one}/weight"].spec
        second_spec = places[f"vision/blocks/{two}/weight"].spec
        assert (first_spec[1], second_spec[2]) == ("tensor", "tensor")
        assert places[f"vision/blocks/{one}/bias"].spec[1] == "tensor"


def test_a_model_that_could_hardly_be_split_is_refused() -> None:
    shapes = {
        "vision/blocks/mlp/fc1/weight": jax.ShapeDtypeStruct((1, 10, 6), np.float32),
        "vision/blocks/mlp/fc2/weight": jax.ShapeDtypeStruct((1, 6, 12), np.float32),
    }
    matched = parameter_rules.match_rules(shapes)
    with pytest.raises(UserError, match=r"only 0% of the parameters divide .*mesh.fsdp=8"):
        parameter_rules.parameter_shardings(shapes, matched, make_mesh(MeshConfig(1, 8, 1)))
    with pytest.raises(UserError, match=r"only 0% .*mesh.tensor=8; choose sizes that divide"):
        parameter_rules.parameter_shardings(shapes, matched, make_mesh(MeshConfig(1, 1, 8)))
    places = parameter_rules.parameter_shardings(shapes, matched, make_mesh(MeshConfig(4, 1, 2)))
    split = [place.shard_shape(shapes[path].shape) for path, place in places.items()]
    assert split == [(1, 5, 6), (1, 6, 6)]
    # On data alone nothing needs to divide.
    assert parameter_rules.parameter_shardings(shapes, matched, make_mesh(MeshConfig(8, 1, 1)))
