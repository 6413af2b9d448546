"""The detector as one StableHLO program that contains its weights, for CPU, CUDA and TPU."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from jax_vlffd.config import ModelConfig
from jax_vlffd.errors import UserError
from jax_vlffd.model import Array, bind, graph_and_shapes, normalize

PLATFORMS = ("cpu", "cuda", "tpu")
#: The serialized form addresses its bytes with 31 bits; 64 MiB are left for the program.
MAX_BYTES = 2**31 - 2**26


def build(parameters: Mapping[str, np.ndarray], config: ModelConfig) -> bytes:
    """Serializes (images uint8 [b, S, S, 3]) -> (logits fp32 [b, 2], embedding fp32 [b, E]).

    Any batch size b is accepted. Logits are of (real, fake), not calibrated; the embedding is a unit vector of
    the alignment branch. `jax.export.deserialize` reads the bytes.

    Args:
      parameters: path -> fp32 value.
      config: their model's; its compute dtype is the program's.

    Raises:
      UserError: the image branch is larger than the format can hold.
    """
    branch = ("vision/", "image_head/", "visual_projection/")
    size = sum(v.nbytes for path, v in parameters.items() if path.startswith(branch))
    if size > MAX_BYTES:
        raise UserError(
            f"the image branch takes {size / 2**30:.1f} GiB, and a serialized program can hold less than 2"
        )
    graph, _ = graph_and_shapes(config)
    # Constants of the program; tracing drops those of the other branches.
    constants = {path: jnp.asarray(value) for path, value in parameters.items()}

    def detect(images: Array) -> tuple[Array, Array]:
        model = bind(graph, constants)
        pooled = model.encode_image(normalize(images, config.image_mean, config.image_std)).pooled
        return model.classify_image(pooled), model.embed_image(pooled)

    side = config.clip.vision.image_size
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
    return bytes(export.export(jax.jit(detect), platforms=PLATFORMS)(images).serialize())
