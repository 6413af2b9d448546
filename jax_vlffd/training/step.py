"""The train step and the eval step: pure functions of pytrees, jitted over the mesh."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AbstractMesh, Mesh
from jaxtyping import Array, Float, Float32, Int, Shaped

from jax_vlffd.config import LossConfig
from jax_vlffd.losses import (
    clamp_logit_scale,
    classification_loss,
    contrastive_loss,
    patch_loss,
    pool_forged,
)
from jax_vlffd.model import VLFFD, Parameters, bind, normalize
from jax_vlffd.training.processes import SingleProcess
from jax_vlffd.training.sharding import batch_sharding, replicated
from jax_vlffd.training.state import StepSpec, TrainPlan, TrainState

Batch = Mapping[str, Array]
Metrics = dict[str, Array]

#: The fields of a batch that hold texts.
TEXT_FIELDS = ("tokens", "fused_tokens")
#: Name of the alignment loss's operations in a compiled program.
ALIGNMENT_SCOPE = "alignment_loss"


def batch_fields(loss: LossConfig) -> tuple[str, ...]:
    """The fields of a loaded batch that a training step reads."""
    read = ("image", "label", "tokens", "fused_tokens", "caption_key")
    return (*read, "forged_patches") if loss.local > 0 else read


def text_length(batch: Mapping[str, np.ndarray], spec: StepSpec) -> int:
    """Length of the longest text in this process's share of a batch, rounded up to the multiple.

    Args:
      batch: int32 [B, T] `tokens` and `fused_tokens` with the end token at least once in a row.
      spec: the model's context length T and end token, and a multiple of at least 1.
    """
    text, multiple = spec.model.clip.text, spec.model.compute.pad_to_multiple_of
    longest = (
        max(int((batch[name] == text.eos_id).argmax(axis=1).max()) for name in TEXT_FIELDS) + 1
    )
    return min(-(-longest // multiple) * multiple, text.context_length)


def truncate_texts(
    batch: Mapping[str, np.ndarray], spec: StepSpec, peers: SingleProcess
) -> tuple[dict[str, np.ndarray], int]:
    """Truncates captions to the longest of the batch, over all processes, and returns that length too (ours).

    The tokens after a text's end change nothing: the text tower is causal and pools at the end, and branch 3
    masks the rest. But they cost computation, and captions usually take a third of the context. Each length
    compiles a program. Texts are not truncated if the multiple is 0 or no loss reads them.
    """
    if not spec.model.compute.pad_to_multiple_of or not spec.loss.uses_text:
        return dict(batch), spec.model.clip.text.context_length
    length = max(peers.exchange(text_length(batch, spec)))
    truncated = {
        name: value[:, :length] if name in TEXT_FIELDS else value for name, value in batch.items()
    }
    return truncated, length


def forward(model: VLFFD, batch: Batch, spec: StepSpec) -> dict[str, Array]:
    """Runs the branches whose weights are above 0 on one batch.

    Args:
      model: bound to its parameters.
      batch: image uint8 [B, H, W, 3], label int32 [B], tokens and fused_tokens int32 [B, T]; with local
        losses, forged_patches fp32 [B, N - 1].
      spec: which branches, and the normalization.

    Returns:
      Per-example outputs, each with leading axis B: `image_logits` [B, 2], and where the branch is on
      `fused_logits` and `blind_logits` (image tokens zeroed, no gradient) [B, 2], `image_embedding` and
      `text_embedding` [B, E]; with local losses `patch_logits` [B, N - 1, 2] and `local_embedding` [B, E].
    """
    images = normalize(batch["image"], spec.model.image_mean, spec.model.image_std)
    image = model.encode_image(images)
    out = {"image_logits": model.classify_image(image.pooled)}
    local = spec.loss.local > 0
    patches = image.tokens[:, 1:]
    if local and spec.loss.image > 0:
        out["patch_logits"] = model.classify_image(patches)
    if spec.loss.alignment > 0:
        text = model.encode_text(batch["tokens"])
        out["image_embedding"] = model.embed_image(image.pooled)
        out["text_embedding"] = model.embed_text(text.pooled)
        if local:
            pooled = pool_forged(patches, batch["forged_patches"], batch["label"])
            out["local_embedding"] = model.embed_image(pooled)
    if spec.loss.fusion > 0:
        tokens = batch["fused_tokens" if spec.separate_captions else "tokens"]
        shared = spec.loss.alignment > 0 and not spec.separate_captions
        words = text.tokens if shared else model.encode_text(tokens).tokens
        out["fused_logits"] = model.classify_fused(image.tokens, words, tokens)
        # Branch 3 without the image: if this is as accurate as with it, the caption reveals the label (verdict
        # leakage). One zeroed token replaces all of them, which would attend alike.
        out["blind_logits"] = jax.lax.stop_gradient(
            model.classify_fused(jnp.zeros_like(image.tokens[:, :1]), words, tokens)
        )
    return out


def make_loss(
    plan: TrainPlan,
) -> Callable[[Parameters, Parameters, Batch], tuple[Array, Metrics]]:
    """The loss of a batch: (trainable parameters, frozen ones, batch) -> (total, metrics).

    With `accumulate` > 1 the batch goes through the towers in parts whose activations are recomputed in the
    backward pass; the contrastive loss still sees the embeddings of the whole batch, so its negatives and
    its gradient are those of one large batch (as GradCache, Gao et al. 2021).
    """
    spec = plan.spec

    def outputs(parameters: Parameters, batch: Batch) -> dict[str, Array]:
        return forward(bind(plan.graph, parameters), batch, spec)

    def loss(trainable: Parameters, frozen: Parameters, batch: Batch) -> tuple[Array, Metrics]:
        parameters = {**frozen, **trainable}
        if spec.accumulate == 1:
            out = outputs(parameters, batch)
        else:
            part = jax.checkpoint(lambda b: outputs(parameters, b), prevent_cse=False)
            out = _join(jax.lax.map(part, _parts(batch, spec.accumulate)))
        return _losses(out, parameters, batch, spec.loss, plan.mesh)

    return loss


def make_train_step(plan: TrainPlan) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step (state, batch) -> (state, metrics); the old state is donated."""
    loss_fn = make_loss(plan)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trainable = {k: v for k, v in state.parameters.items() if k in plan.trainable}
        frozen = {k: v for k, v in state.parameters.items() if k not in plan.trainable}
        (_, metrics), gradient = jax.value_and_grad(loss_fn, has_aux=True)(trainable, frozen, batch)
        updates, optimizer_state = plan.optimizer.update(gradient, state.optimizer, trainable)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        metrics["learning_rate"] = jnp.asarray(plan.schedule(state.step), jnp.float32)
        updated = optax.apply_updates(trainable, updates)
        if "logit_scale" in updated:
            updated["logit_scale"] = clamp_logit_scale(updated["logit_scale"])
        # Finite losses and gradients can lead to parameters that are not.
        metrics["parameter_norm"] = optax.tree.norm(updated)
        return TrainState(state.step + 1, {**frozen, **updated}, optimizer_state), metrics

    return jax.jit(
        step,
        in_shardings=(plan.sharding, batch_sharding(plan.mesh)),
        out_shardings=(plan.sharding, replicated(plan.mesh)),
        donate_argnums=0,
    )


def make_eval_step(plan: TrainPlan) -> Callable[[Parameters, Batch], dict[str, Array]]:
    """The jitted detector: (parameters, batch) -> `logits` fp32 [B, 2] of (real, fake), with the alignment
    branch `embedding` fp32 [B, E], and of the batch `label`, `index` and `valid` [B], all of the global
    batch on every process.

    Only the image branch runs: it is the detector (paper, section 3.2).
    """

    def step(parameters: Parameters, batch: Batch) -> dict[str, Array]:
        model = bind(plan.graph, parameters)
        images = normalize(batch["image"], plan.spec.model.image_mean, plan.spec.model.image_std)
        pooled = model.encode_image(images).pooled
        out = {"logits": model.classify_image(pooled)}
        if plan.spec.loss.alignment > 0:  # without it, the projection was never trained
            out["embedding"] = model.embed_image(pooled)
        return out | {name: batch[name] for name in ("label", "index", "valid")}

    return jax.jit(
        step,
        in_shardings=(plan.sharding.parameters, batch_sharding(plan.mesh)),
        out_shardings=replicated(plan.mesh),
    )


def _losses(
    out: Mapping[str, Array],
    parameters: Parameters,
    batch: Batch,
    weights: LossConfig,
    mesh: Mesh | AbstractMesh,
) -> tuple[Array, Metrics]:
    labels = batch["label"]
    metrics = {
        "loss_image": classification_loss(out["image_logits"], labels),
        "accuracy_image": _accuracy(out["image_logits"], labels),
    }
    total = jnp.zeros(())
    if weights.image > 0:  # a loss of weight 0 would still be differentiated
        total = weights.image * metrics["loss_image"]
        if weights.local > 0:
            metrics["loss_local_image"] = patch_loss(out["patch_logits"], batch["forged_patches"])
            total = total + weights.local * weights.image * metrics["loss_local_image"]
    if weights.alignment > 0:
        align = partial(
            contrastive_loss, text=out["text_embedding"], keys=batch["caption_key"],
            logit_scale=parameters["logit_scale"], logit_bias=parameters["logit_bias"],
            mesh=mesh, targets=weights.targets,
        )  # fmt: skip
        with jax.named_scope(ALIGNMENT_SCOPE):
            metrics["loss_alignment"] = align(out["image_embedding"])
            if weights.local > 0:
                metrics["loss_local_alignment"] = align(out["local_embedding"])
        metrics["logit_scale"] = parameters["logit_scale"]
        total = total + weights.alignment * metrics["loss_alignment"]
        if weights.local > 0:
            total = total + weights.local * weights.alignment * metrics["loss_local_alignment"]
    if weights.fusion > 0:
        metrics["loss_fusion"] = classification_loss(out["fused_logits"], labels)
        metrics["accuracy_fusion"] = _accuracy(out["fused_logits"], labels)
        metrics["accuracy_fusion_without_image"] = _accuracy(out["blind_logits"], labels)
        metrics["auc_fusion_without_image"] = _auc(out["blind_logits"], labels)
        total = total + weights.fusion * metrics["loss_fusion"]
    return total, {"loss": total, **metrics}


def _accuracy(logits: Float[Array, "B 2"], labels: Int[Array, " B"]) -> Float32[Array, ""]:
    return jnp.mean((logits.argmax(-1) == labels).astype(jnp.float32))


def _auc(logits: Float[Array, "B 2"], labels: Int[Array, " B"]) -> Float[Array, ""]:
    """The area under the ROC curve of one batch, by ranks with ties halved; NaN if it has one class only.

    A zeroed image shifts all logits alike: a leak that the accuracy's fixed threshold hides still shows here.
    """
    margin = logits[:, 1] - logits[:, 0]
    ordered = jnp.sort(margin)
    rank = 0.5 * (
        jnp.searchsorted(ordered, margin) + jnp.searchsorted(ordered, margin, side="right")
    )
    fakes = labels.sum()
    above = jnp.sum(jnp.where(labels == 1, rank + 0.5, 0.0)) - fakes * (fakes + 1) / 2
    return above / (fakes * (labels.size - fakes))


def _parts(
    batch: Mapping[str, Shaped[Array, "B ..."]], count: int
) -> dict[str, Shaped[Array, "{count} part ..."]]:
    """Splits a batch into parts, each taking its share from every device's rows."""
    return {k: v.reshape(-1, count, *v.shape[1:]).swapaxes(0, 1) for k, v in batch.items()}


def _join(parts: dict[str, Shaped[Array, "count part ..."]]) -> dict[str, Shaped[Array, "B ..."]]:
    """Undoes `_parts`."""
    return {k: v.swapaxes(0, 1).reshape(-1, *v.shape[2:]) for k, v in parts.items()}
