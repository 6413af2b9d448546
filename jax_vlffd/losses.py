"""The losses in fp32: the method's (paper, section 3.2), and local ones of the mask (ours).

Captions repeat: all real faces say nearly the same. One-to-one targets would push an image away from a
caption that is true of it, so by default every pair with the same caption key is a positive.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from optax import losses

Array = jax.Array

#: The axes of the mesh over which a batch is split.
BATCH_AXES = ("data", "fsdp")

#: CLIP keeps its learned scale at or below 100 (Radford et al. 2021, section 2.5): the parameter, after each
#: step. A limit within the loss would leave a parameter above it without a gradient for ever.
MAX_LOGIT_SCALE = 4.605170185988092


def classification_loss(logits: Array, labels: Array) -> Array:
    """Mean cross-entropy of fp32 logits [B, 2] and int32 labels [B] (0 real, 1 fake)."""
    return losses.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    ).mean()


def patch_loss(logits: Array, forged: Array) -> Array:
    """Mean cross-entropy of patches against how much of each is forged (ours).

    Args:
      logits: fp32 [B, N, 2] of (real, fake).
      forged: fp32 [B, N], shares from 0 to 1; below 0 where they are not known, and nothing is learned.
    """
    known = forged >= 0
    each = losses.sigmoid_binary_cross_entropy(logits[..., 1] - logits[..., 0], forged)
    return each.sum(where=known) / jnp.maximum(known.sum(), 1)


def pool_forged(patches: Array, forged: Array, labels: Array) -> Array:
    """The mean of a fake's forged patches; of a real, or where none is known to be forged, of all (ours).

    Args:
      patches: [B, N, D].
      forged: fp32 [B, N], as of `patch_loss`.
      labels: int32 [B].

    Returns:
      fp32 [B, D].
    """
    weights = jnp.where(labels[:, None] == 1, jnp.maximum(forged, 0.0), 0.0)
    sums = weights.sum(axis=1, keepdims=True)
    weights = jnp.where(sums > 0, weights / jnp.maximum(sums, 1e-6), 1 / patches.shape[1])
    return (weights[..., None] * patches.astype(jnp.float32)).sum(axis=1)


def contrastive_loss(
    image: Array,
    text: Array,
    keys: Array,
    logit_scale: Array,
    logit_bias: Array,
    *,
    mesh: Mesh,
    targets: str = "multi_positive",
) -> Array:
    """The alignment loss over the global batch.

    Each device computes its own rows against all gathered columns, in both directions, so that none holds
    the B x B matrix: memory is B x B / devices.

    Args:
      image: fp32 unit vectors [B, E], split over the mesh's batch axes.
      text: likewise.
      keys: int32 caption keys [B]; equal keys mean the same.
      logit_scale: learned log of the scale; the training step keeps it at or below ln 100.
      logit_bias: learned bias; used by 'sigmoid' alone.
      mesh: with the axes of BATCH_AXES.
      targets: one of `config.AlignmentTargets`.

    Returns:
      The scalar fp32 mean over the batch.
    """
    rows = P(BATCH_AXES)

    @partial(jax.shard_map, mesh=mesh, in_specs=(rows, rows, rows, P(), P()), out_specs=P())
    def loss(image: Array, text: Array, keys: Array, scale: Array, bias: Array) -> Array:
        every_text = jax.lax.all_gather(text, BATCH_AXES, tiled=True)
        every_key = jax.lax.all_gather(keys, BATCH_AXES, tiled=True)
        if targets == "one_to_one":  # a key of its own for each record
            every_key = jnp.arange(every_key.shape[0])
            keys = jax.lax.axis_index(BATCH_AXES) * keys.shape[0] + jnp.arange(keys.shape[0])
        positive = keys[:, None] == every_key[None, :]
        scale = jnp.exp(scale)
        if targets == "sigmoid":
            logits = scale * _similarities(image, every_text) + bias
            total = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits)).sum()
        else:
            every_image = jax.lax.all_gather(image, BATCH_AXES, tiled=True)
            share = positive / positive.sum(axis=1, keepdims=True)
            total = 0.5 * (
                _cross_entropy(scale * _similarities(image, every_text), share)
                + _cross_entropy(scale * _similarities(text, every_image), share)
            )
        return jax.lax.psum(total, BATCH_AXES) / every_key.shape[0]

    return loss(image, text, keys, logit_scale, logit_bias)


def _similarities(rows: Array, columns: Array) -> Array:
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


def _cross_entropy(logits: Array, share: Array) -> Array:
    return -(share * jax.nn.log_softmax(logits, axis=1)).sum()
