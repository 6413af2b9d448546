"""The detector as one StableHLO program with its weights inside, for CPU, CUDA and TPU."""

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
#: The serialized form addresses its bytes by 31 bits; the rest is room for the program.
MAX_BYTES = 2**31 - 2**26


def build(parameters: Mapping[str, np.ndarray], config: ModelConfig) -> bytes:
    """Serializes (images uint8 [b, S, S, 3]) -> (logits fp32 [b, 2], embedding fp32 [b, E]).

    Any batch size b goes in. Logits are of (real, fake), not calibrated; the embedding is the unit vector of
    the alignment branch. `jax.export.deserialize` reads it back.

    Args:
      parameters: fp32, path -> value.
      config: of them; its compute dtype is the program's.

    Raises:
      UserError: the image branch is larger than the format can hold.
    """
    used = ("vision/", "image_head/", "visual_projection/")
    size = sum(v.nbytes for path, v in parameters.items() if path.startswith(used))
    if size > MAX_BYTES:
        raise UserError(
            f"the image branch takes {size / 2**30:.1f} GiB, and a serialized program holds less than 2"
        )
    graph, _ = graph_and_shapes(config)
    # Constants of the program; those of the other branches are left out, being used by nothing.
    inside = {path: jnp.asarray(value) for path, value in parameters.items()}

    def detect(images: Array) -> tuple[Array, Array]:
        model = bind(graph, inside)
        pooled = model.encode_image(normalize(images, config.image_mean, config.image_std)).pooled
        return model.classify_image(pooled), model.embed_image(pooled)

    side = config.clip.vision.image_size
    (batch,) = export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, side, side, 3), np.uint8)
    return bytes(export.export(jax.jit(detect), platforms=PLATFORMS)(images).serialize())
