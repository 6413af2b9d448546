"""A run's reasons: its text tower embeds the bank of sentences, which then explains scored sets."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd import explanation
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.evaluation.scores import Scores
from jax_vlffd.explanation import Explainer

#: Prefixes of the parameters that a sentence's embedding depends on.
_TEXT = ("text/", "text_projection/")

if TYPE_CHECKING:  # JAX is imported when a run is loaded, not when a flag is parsed
    from jax_vlffd.model import Parameters
    from jax_vlffd.training.state import TrainPlan


def embed_bank(plan: TrainPlan, parameters: Parameters, tokenizer: Tokenizer) -> np.ndarray | None:
    """The bank's sentences as fp32 unit vectors [S, E]; None where the alignment branch is off.

    All processes must call this.

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

    replicas = replicated(plan.mesh)
    step = jax.jit(embed, in_shardings=(plan.sharding.parameters, replicas), out_shardings=replicas)
    return np.asarray(step(parameters, jax.device_put(tokens, replicas)))


def untuned_text(plan: TrainPlan, seed: int, parameters: Parameters, source: str) -> Parameters:
    """Replaces the text tower and its projection by those before training, as a control.

    Args:
      plan: the run's static side.
      seed: of the run.
      parameters: as trained.
      source: the checkpoint that the run started from, as the user names it; '' for random parameters.

    Raises:
      UserError: it is not a checkpoint, or of another model.
    """
    from jax_vlffd.clip import huggingface
    from jax_vlffd.training.state import initial_state, load_pretrained

    loaded = load_pretrained(plan, huggingface.open_checkpoint(source)) if source else None
    start = initial_state(plan, seed, loaded).parameters
    return {k: start[k] if k.startswith(_TEXT) else v for k, v in parameters.items()}


def fit(embedded: np.ndarray | None, validation: Scores) -> Explainer | None:
    """Calibrates embedded sentences fp32 [S, E] on scored validation sets; None without sentences."""
    if embedded is None:
        return None
    images, regions, types = validation.embedding, validation.regions, validation.types
    assert images is not None and regions is not None and types is not None  # noqa: PT018
    return explanation.fit(explanation.bank(), embedded, images, validation.label, regions, types)


def with_reasons(
    scores: Scores, explainer: Explainer | None, calibration: Calibration | None
) -> Scores:
    """Adds the reasons in words to scores; returns them unchanged if there is no bank."""
    if explainer is None or scores.embedding is None:
        return scores
    calibrated = calibration or Calibration()
    probability = calibrated.probability(scores.logits())
    explanations = [
        explainer.explain(embedding, calibrated.verdict(float(p)))
        for embedding, p in zip(scores.embedding, probability, strict=True)
    ]
    texts = [" ".join(reason.text for reason in explained.reasons) for explained in explanations]
    return dataclasses.replace(scores, reasons=np.array(texts, dtype=object))
