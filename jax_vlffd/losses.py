"""The losses in fp32: the method's (paper, section 3.2), and local losses by the mask (ours).

Captions repeat: those of real faces are nearly all alike. One-to-one targets would push an image away from a
caption that is true of it, so by default every pair with the same caption key is a positive.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int
from optax import losses

#: The mesh axes over which a batch is split.
BATCH_AXES = ("data", "fsdp")

#: CLIP limits its learned scale to 100 (Radford et al. 2021, section 2.5): ln 100, applied to the parameter
#: after each step. A limit within the loss would leave a parameter above it without a gradient forever.
MAX_LOGIT_SCALE = 4.605170185988092


def clamp_logit_scale(logit_scale: Float[Array, ""]) -> Float[Array, ""]:
    """The logarithm of the inverse temperature, at most `MAX_LOGIT_SCALE`."""
    return jnp.minimum(logit_scale, MAX_LOGIT_SCALE)


def classification_loss(
    logits: Float[Array, "B 2"], labels: Int[Array, " B"]
) -> Float32[Array, ""]:
    """Mean cross-entropy of logits of (real, fake) against labels (0 real, 1 fake)."""
    return losses.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), labels
    ).mean()


def patch_loss(logits: Float[Array, "B P 2"], forged: Float[Array, "B P"]) -> Float[Array, ""]:
    """Mean cross-entropy of patches against the forged share of each (ours).

    Args:
      logits: of (real, fake).
      forged: shares from 0 to 1; below 0 where unknown: such a patch does not count.
    """
    known = forged >= 0
    each = losses.sigmoid_binary_cross_entropy(logits[..., 1] - logits[..., 0], forged)
    return each.sum(where=known) / jnp.maximum(known.sum(), 1)


def pool_forged(
    patches: Float[Array, "B P D"],
    forged: Float[Array, "B P"],
    labels: Int[Array, " B"],
) -> Float[Array, "B D"]:
    """Mean of a fake's forged patches; of all patches for a real, or where none is known to be forged (ours).

    Args:
      patches: the image tower's tokens without the class token.
      forged: as in `patch_loss`, the weights of the mean.
      labels: 0 real, 1 fake.
    """
    weights = jnp.where(labels[:, None] == 1, jnp.maximum(forged, 0.0), 0.0)
    sums = weights.sum(axis=1, keepdims=True)
    weights = jnp.where(sums > 0, weights / jnp.maximum(sums, 1e-6), 1 / patches.shape[1])
    return (weights[..., None] * patches.astype(jnp.float32)).sum(axis=1)


def contrastive_loss(
    image: Float32[Array, "B E"],
    text: Float32[Array, "B E"],
    keys: Int[Array, " B"],
    logit_scale: Float32[Array, ""],
    logit_bias: Float32[Array, ""],
    *,
    mesh: Mesh | AbstractMesh,
    targets: str = "multi_positive",
) -> Float32[Array, ""]:
    """The alignment loss over the global batch.

    Each device computes its own rows against all gathered columns, in both directions, so that no device holds
    the B x B matrix: memory per device is B x B / devices.

    Args:
      image: unit vectors, split over the mesh's batch axes.
      text: likewise.
      keys: caption keys; equal keys mean equal captions.
      logit_scale: learned log of the scale; the training step limits it to ln 100.
      logit_bias: learned bias; used by 'sigmoid' only.
      mesh: with the axes of BATCH_AXES.
      targets: one of `config.AlignmentTargets`.

    Returns:
      The mean over the batch. For 'sigmoid', the sum over all pairs by the number of positives: where each
      image has one, as in Zhai et al. (2023); where captions repeat, theirs would grow with the batch (ours).

      Their bias begins at -10, for batches where nearly all pairs are negatives. Ours begins at 0 and counts
      from the batch's log-odds of a positive, less its mean similarity: shares and pretrained weights differ,
      and learning a bias is too slow to make up for it (ours).
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
            similar = scale * _similarities(image, every_text)
            mean, share = jax.lax.pmean((similar.mean(), positive.mean()), BATCH_AXES)
            logits = similar - mean + _log_odds(share, every_key.shape[0] ** 2) + bias
            each = -jax.nn.log_sigmoid(jnp.where(positive, logits, -logits))
            return jax.lax.pmean(each.mean(), BATCH_AXES) / share
        every_image = jax.lax.all_gather(image, BATCH_AXES, tiled=True)
        share = positive / positive.sum(axis=1, keepdims=True)
        total = 0.5 * (
            _cross_entropy(scale * _similarities(image, every_text), share)
            + _cross_entropy(scale * _similarities(text, every_image), share)
        )
        return jax.lax.psum(total, BATCH_AXES) / every_key.shape[0]

    return loss(image, text, keys, logit_scale, logit_bias)


def _log_odds(share: Float32[Array, ""], pairs: int) -> Float32[Array, ""]:
    """The log-odds of a share of the pairs; half a pair more on each side keeps them finite at 0 and 1."""
    half = 0.5 / pairs
    return jnp.log((share + half) / (1 - share + half))


def _similarities(
    rows: Float32[Array, "rows E"], columns: Float32[Array, "columns E"]
) -> Float32[Array, "rows columns"]:
    return jnp.matmul(rows, columns.T, precision=jax.lax.Precision.HIGHEST)


def _cross_entropy(
    logits: Float[Array, "rows columns"], share: Float[Array, "rows columns"]
) -> Float[Array, ""]:
    return -(share * jax.nn.log_softmax(logits, axis=1)).sum()
