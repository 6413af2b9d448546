"""Annotated shapes and dtypes are checked while tests run."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jax_vlffd import losses, model
from jax_vlffd.inference import heatmaps


def test_a_wrong_shape_or_dtype_raises() -> None:
    with pytest.raises(TypeCheckError, match="labels"):
        losses.classification_loss(jnp.zeros((4, 2)), jnp.zeros(3, jnp.int32))
    with pytest.raises(TypeCheckError, match="images"):
        model.normalize(jnp.zeros((1, 8, 8, 3)), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(TypeCheckError, match="values"):
        heatmaps.heat(np.zeros((64, 64, 3), np.uint8), np.zeros((8, 4)))
