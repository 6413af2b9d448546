"""The training state, the static plan of a run, and their initialization."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jax_vlffd.clip import huggingface
from jax_vlffd.clip.config import difference
from jax_vlffd.config import LossConfig, ModelConfig, OptimConfig, TuningConfig
from jax_vlffd.errors import UserError
from jax_vlffd.model import Parameters, graph_and_shapes, initial_parameters
from jax_vlffd.training.optimizer import learning_rate, make_optimizer
from jax_vlffd.training.parameter_rules import match_rules, parameter_shardings, trainable_paths
from jax_vlffd.training.sharding import replicated

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Everything that a step changes.

    step: int32 scalar, steps done. parameters: path -> fp32 array, trainable and frozen. optimizer: optax's
    state, of the trainable parameters only. Shapes or shardings may take the place of the arrays.
    """

    step: Any
    parameters: dict[str, Any]
    optimizer: Any


@dataclass(frozen=True)
class StepSpec:
    """What a step computes: the model, the losses, and how a batch goes in.

    separate_captions: whether branch 3 reads `fused_tokens` and not `tokens`. accumulate: number of parts in
    which a batch goes through the towers.
    """

    model: ModelConfig
    loss: LossConfig
    separate_captions: bool = False
    accumulate: int = 1


@dataclass(frozen=True)
class TrainPlan:
    """The static side of a run: everything that jitted steps close over.

    shapes: path -> shape of every parameter. trainable: the paths that train. sharding: a TrainState whose
    leaves are shardings; abstract: one whose leaves are shapes with those shardings.
    """

    spec: StepSpec
    mesh: Mesh
    graph: nnx.GraphDef
    shapes: Mapping[str, jax.ShapeDtypeStruct]
    trainable: frozenset[str]
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    sharding: TrainState
    abstract: TrainState


def make_plan(
    spec: StepSpec,
    mesh: Mesh,
    tuning: TuningConfig,
    optim: OptimConfig,
    *,
    steps: int,
    warmup_steps: int,
) -> TrainPlan:
    """Resolves a run's static side; computes nothing on a device.

    Raises:
      UserError: the mesh does not fit the model, or a parameter has no rule.
    """
    graph, shapes = graph_and_shapes(spec.model)
    matched = match_rules(shapes)
    trainable = trainable_paths(matched, vision=tuning.vision, text=tuning.text)
    trainable = frozenset(path for path in trainable if _is_used(path, spec.loss))
    schedule = learning_rate(optim, steps=steps, warmup_steps=warmup_steps)
    optimizer = make_optimizer(optim, {path: matched[path] for path in sorted(trainable)}, schedule)

    shardings = parameter_shardings(shapes, matched, mesh)
    optimizer_shapes = jax.eval_shape(optimizer.init, {path: shapes[path] for path in trainable})
    everywhere = replicated(mesh)
    # Adam's moments are dicts like the parameters and have their shardings.
    optimizer_sharding = jax.tree_util.tree_map_with_path(
        lambda path, _: shardings.get(getattr(path[-1], "key", ""), everywhere),
        optimizer_shapes,
    )
    sharding = TrainState(everywhere, shardings, optimizer_sharding)
    step = jax.ShapeDtypeStruct((), jnp.int32)
    abstract = jax.tree.map(
        lambda shape, s: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=s),
        TrainState(step, dict(shapes), optimizer_shapes),
        sharding,
    )
    return TrainPlan(spec, mesh, graph, shapes, trainable, optimizer, schedule, sharding, abstract)


def _is_used(path: str, loss: LossConfig) -> bool:
    """Whether an enabled branch reads the parameter: decay must not change one that no loss depends on."""
    part = path.split("/")[0]
    if part == "text":
        return loss.uses_text
    if part in ("text_projection", "visual_projection", "logit_scale", "logit_bias"):
        return loss.alignment > 0 and (part != "logit_bias" or loss.targets == "sigmoid")
    if part in ("fusion", "fusion_head"):
        return loss.fusion > 0
    return part != "image_head" or loss.image > 0


def initial_state(
    plan: TrainPlan, seed: int, pretrained: Mapping[str, Array] | None = None
) -> TrainState:
    """A state at step 0: random parameters from the seed, replaced by `pretrained` where it has them."""
    init = jax.jit(
        lambda key: initial_parameters(plan.spec.model, key),
        out_shardings=plan.sharding.parameters,
    )
    parameters = {**init(jax.random.key(seed)), **(pretrained or {})}
    trainable = {path: parameters[path] for path in plan.trainable}
    start = jax.jit(plan.optimizer.init, out_shardings=plan.sharding.optimizer)
    step = jax.device_put(np.zeros((), np.int32), plan.sharding.step)
    return TrainState(step, parameters, start(trainable))


def load_pretrained(plan: TrainPlan, checkpoint: huggingface.Checkpoint) -> Parameters:
    """The towers' weights of a Hugging Face checkpoint, in the plan's shardings.

    A CLIP fills both towers and the projections; a plain ViT fills the image tower.

    Raises:
      UserError: the checkpoint's architecture is not the config's, or its weights do not fit.
    """
    clip = plan.spec.model.clip
    faults = [f"vision.{field}" for field in difference(clip.vision, checkpoint.vision)]
    targets = ["vision/"]
    if checkpoint.clip is not None:
        faults += [f"text.{field}" for field in difference(clip.text, checkpoint.clip.text)]
        if clip.embed_dim != checkpoint.clip.embed_dim:
            faults.append(f"embed_dim {clip.embed_dim} != {checkpoint.clip.embed_dim}")
        targets += ["text/", "visual_projection/", "text_projection/", "logit_scale"]
    if faults:
        raise UserError(
            f"{checkpoint.folder}: its architecture is not the config's (config != checkpoint): "
            f"{', '.join(faults)}; choose the recipe or the checkpoint that fits"
        )
    wanted = {
        path: shape
        for path, shape in plan.shapes.items()
        if path.startswith(tuple(targets)) and "/lora_" not in path
    }
    return huggingface.load(checkpoint, wanted, plan.sharding.parameters)
