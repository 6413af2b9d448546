"""Reasons of a run: the bank of sentences embedded by its text tower, and what it says of scored sets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd import explanation
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.evaluation.scores import Scores
from jax_vlffd.explanation import Explainer

#: Parameters that a sentence's embedding rests on.
_TEXT = ("text/", "text_projection/")

if TYPE_CHECKING:  # JAX is imported when a run is loaded, not when a flag is parsed
    from jax_vlffd.model import Parameters
    from jax_vlffd.training.state import TrainPlan


def embed_bank(plan: TrainPlan, parameters: Parameters, tokenizer: Tokenizer) -> np.ndarray | None:
    """The bank's sentences as fp32 unit vectors [S, E]; None where the alignment branch is off.

    Runs on every process alike.

    Args:
      plan: the run's static side.
      parameters: in the plan's shardings.
      tokenizer: of the run.
    """
    if plan.spec.loss.alignment <= 0:
        return None
    import jax

    from jax_vlffd.model import bind
    from jax_vlffd.training.sharding import replicated

    prompts = [sentence.prompt for sentence in explanation.bank()]
    tokens = tokenizer.encode(prompts, plan.spec.model.clip.text.context_length)

    def embed(parameters: Parameters, tokens: jax.Array) -> jax.Array:
        model = bind(plan.graph, parameters)
        return model.embed_text(model.encode_text(tokens).pooled)

    whole = replicated(plan.mesh)
    step = jax.jit(embed, in_shardings=(plan.sharding.parameters, whole), out_shardings=whole)
    return np.asarray(step(parameters, jax.device_put(tokens, whole)))


def untuned_text(plan: TrainPlan, seed: int, parameters: Parameters, source: str) -> Parameters:
    """The parameters with the text tower and its projection as they were before training: a control.

    Args:
      plan: the run's static side.
      seed: of the run.
      parameters: as trained.
      source: the checkpoint that the run started from, as the user names it; '' for random parameters.

    Raises:
      UserError: the checkpoint is none, or of another model.
    """
    from jax_vlffd.clip import huggingface
    from jax_vlffd.training.state import initial_state, load_pretrained

    loaded = load_pretrained(plan, huggingface.open_checkpoint(source)) if source else None
    start = initial_state(plan, seed, loaded).parameters
    return {k: start[k] if k.startswith(_TEXT) else v for k, v in parameters.items()}


def fit(embedded: np.ndarray | None, validation: Scores) -> Explainer | None:
    """Calibrates embedded sentences on scored validation sets; None without sentences."""
    if embedded is None:
        return None
    found = (validation.embedding, validation.regions, validation.types)
    images, regions, types = found
    assert images is not None and regions is not None and types is not None  # noqa: PT018
    return explanation.fit(explanation.bank(), embedded, images, validation.label, regions, types)


def with_reasons(
    scores: Scores, explainer: Explainer | None, calibration: Calibration | None
) -> Scores:
    """Scores with the reasons in words; as they are where there is no bank."""
    if explainer is None or scores.embedding is None:
        return scores
    calibrated = calibration or Calibration()
    probability = calibrated.probability(scores.logits())
    said = [
        explainer.explain(embedding, calibrated.verdict(float(p)))
        for embedding, p in zip(scores.embedding, probability, strict=True)
    ]
    texts = [" ".join(reason.text for reason in found.reasons) for found in said]
    return dataclasses.replace(scores, reasons=np.array(texts, dtype=object))
