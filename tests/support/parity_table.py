"""How far our CLIP is from transformers' CLIPModel, per architecture: `python -m tests.support.parity_table`.

Prints a markdown table of largest absolute differences in fp32 (features and logits) and of the largest
difference of a parameter's gradient, relative to that gradient's norm. Weights are random, drawn by a
seeded torch and perturbed so that no bias or LayerNorm scale is trivial. Needs the extra `parity`.
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, SingleDeviceSharding

from jax_vlffd import losses, model
from jax_vlffd.clip import huggingface
from jax_vlffd.clip.config import CLIPConfig
from jax_vlffd.clip.huggingface_config import clip_to_hf
from jax_vlffd.config import CLIP_MEAN, CLIP_STD, ModelConfig

Array = jax.Array

ARCHITECTURES = ("b32", "b16", "l14", "l14_336", "laion_h14", "laion_bigg14")
#: Images in the batch, and its seed. Random towers give nearly equal embeddings, and the gradient of the
#: temperature is a difference of nearly equal numbers: with this seed it is at least 0.07 of the logits'
#: spread for each architecture, with 0 it is 0.006 for laion_h14.
BATCH, SEED = 4, 2
VOCABULARY = 1000
LAYERS = 2


def reduced(name: str, layers: int = LAYERS) -> CLIPConfig:
    """An architecture with fewer layers and words; widths, heads and patches are the real ones."""
    config: CLIPConfig = getattr(CLIPConfig, name)()
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, layers=layers),
        text=dataclasses.replace(
            config.text, layers=layers, vocab_size=VOCABULARY, eos_id=VOCABULARY - 1
        ),
    )


def torch_clip(config: CLIPConfig, seed: int = 0, **text: Any) -> Any:
    """A torch CLIPModel of this shape with random weights, none trivial; `text` goes into its config."""
    import torch
    from transformers import CLIPConfig as TorchConfig
    from transformers import CLIPModel

    # oneDNN's convolution is off by 1e-5 of the same in fp64, five times as much as torch's own.
    torch.backends.mkldnn.enabled = False
    torch.manual_seed(seed)
    values = clip_to_hf(config)
    values["text_config"] |= {"bos_token_id": 1, "pad_token_id": 0} | text
    return perturb(CLIPModel(TorchConfig(**values, attn_implementation="eager")).eval())


def perturb(module: Any) -> Any:
    """Moves every bias, LayerNorm scale and single vector away from its trivial initial value."""
    import torch

    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def batch(config: CLIPConfig, size: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray]:
    """Normalized images [B, H, W, 3] and tokens [B, T]: the end is early, in the middle, at the end."""
    rng = np.random.default_rng(seed)
    side, length, eos = config.vision.image_size, config.text.context_length, config.text.eos_id
    # Coarse blots under fine noise: white noise alone looks the same to a random tower, and gradients of
    # a contrastive loss over equal features are rounding.
    blots = rng.integers(0, 256, (size, 4, 4, 3)).repeat(side // 4 + 1, 1).repeat(side // 4 + 1, 2)
    noise = rng.integers(-40, 40, (size, side, side, 3))
    pixels = np.clip(blots[:, :side, :side] + noise, 0, 255).astype(np.uint8)
    images = np.asarray(model.normalize(jnp.asarray(pixels), CLIP_MEAN, CLIP_STD))
    tokens = rng.integers(2, min(eos, VOCABULARY - 1), (size, length)).astype(np.int32)
    for row, end in zip(tokens, (1, length - 1, length // 2, length // 3), strict=False):
        row[end:] = eos
        row[end + 1 :: 2] = 0  # a pad id of its own between repeated ends
    return images, tokens


def load(folder: Path | str) -> tuple[CLIPConfig, Any, model.Parameters]:
    """A checkpoint as our model on one device: config, graph, parameters (the heads are zero)."""
    checkpoint = huggingface.open_checkpoint(str(folder))
    assert checkpoint.clip is not None
    graph, shapes = model.graph_and_shapes(ModelConfig(checkpoint.clip))
    target = {ours: shapes[ours] for ours, _ in huggingface.CLIP_TABLE}
    one = SingleDeviceSharding(jax.devices()[0])
    loaded = huggingface.load(checkpoint, target, dict.fromkeys(target, one))
    return checkpoint.clip, graph, {k: jnp.zeros(v.shape) for k, v in shapes.items()} | loaded


def ours(
    graph: Any,
    parameters: model.Parameters,
    images: Array,
    tokens: Array,
    *,
    gradients: bool = True,
) -> tuple[dict[str, Array], model.Parameters]:
    """Every output to compare, and the gradients of the contrastive loss (one-to-one) when asked for."""
    mesh = Mesh(np.asarray(jax.devices()[:1]).reshape(1, 1), losses.BATCH_AXES)

    @jax.jit
    def run(parameters: model.Parameters) -> tuple[dict[str, Array], model.Parameters]:
        def loss(parameters: model.Parameters) -> tuple[Array, dict[str, Array]]:
            clip = model.bind(graph, parameters)
            vision = clip.vision(jnp.asarray(images), hidden_states=True)
            text = clip.text(jnp.asarray(tokens), hidden_states=True)
            image_embedding = clip.embed_image(vision.pooled)
            text_embedding = clip.embed_text(text.pooled)
            scale, bias = clip.logit_scale[...], clip.logit_bias[...]
            value = losses.contrastive_loss(
                image_embedding, text_embedding, jnp.arange(len(images)), scale, bias,
                mesh=mesh, targets="one_to_one",
            )  # fmt: skip
            outputs = {
                "image hidden states": vision.hidden_states,
                "text hidden states": text.hidden_states,
                "image tokens": vision.tokens,
                "text tokens": text.tokens,
                "image pooled": vision.pooled,
                "text pooled": text.pooled,
                "image projected": clip.visual_projection(vision.pooled),
                "text projected": clip.text_projection(text.pooled),
                "image embedding": image_embedding,
                "text embedding": text_embedding,
                "logits": jnp.exp(scale) * image_embedding @ text_embedding.T,
                "loss": value,
            }
            return value, outputs

        if not gradients:
            return loss(parameters)[1], {}
        gradient, outputs = jax.grad(loss, has_aux=True)(parameters)
        return outputs, gradient

    with jax.default_matmul_precision("highest"):
        return run(parameters)


def theirs(
    clip: Any, images: np.ndarray, tokens: np.ndarray, *, gradients: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same by torch: outputs, and the gradient of every parameter by its key."""
    import torch

    pooled = {}
    hooks = [
        # CLIPModel overwrites a tower's pooled output by its projection, so it is caught before.
        tower.register_forward_hook(lambda _, __, out, name=name: pooled.update({name: out[1]}))
        for name, tower in (("image", clip.vision_model), ("text", clip.text_model))
    ]
    with torch.set_grad_enabled(gradients):
        out = clip(
            input_ids=torch.from_numpy(tokens).long(),
            pixel_values=torch.from_numpy(images.transpose(0, 3, 1, 2).copy()),
            output_hidden_states=True,
            return_loss=True,
        )
    if gradients:
        out.loss.backward()
    for hook in hooks:
        hook.remove()
    vision, text = out.vision_model_output, out.text_model_output
    outputs = {
        "image hidden states": torch.stack(vision.hidden_states),
        "text hidden states": torch.stack(text.hidden_states),
        "image tokens": clip.vision_model.post_layernorm(vision.last_hidden_state),
        "text tokens": text.last_hidden_state,
        "image pooled": pooled["image"],
        "text pooled": pooled["text"],
        "image projected": vision.pooler_output,
        "text projected": text.pooler_output,
        "image embedding": out.image_embeds,
        "text embedding": out.text_embeds,
        "logits": out.logits_per_image,
        "loss": out.loss,
    }
    gradient = {k: p.grad.numpy() for k, p in clip.named_parameters()} if gradients else {}
    return {k: v.detach().numpy() for k, v in outputs.items()}, gradient


def differences(ours: Mapping[str, Array], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest absolute difference of each output."""
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].shape == value.shape, name
    return {k: float(np.abs(np.asarray(ours[k], np.float64) - v).max()) for k, v in theirs.items()}


def gradient_differences(
    ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]
) -> dict[str, float]:
    """Norm of each parameter's difference, relative to the norm of its gradient.

    The attention's key bias shifts all logits of a row alike, so its gradient is zero but for rounding: it
    is held against the query bias's.
    """
    assert ours.keys() == theirs.keys()
    norm = np.linalg.norm

    def like(key: str) -> np.ndarray:
        return theirs[key.replace("k_proj.bias", "q_proj.bias").replace("key/bias", "query/bias")]

    return {k: float(norm(ours[k] - v) / norm(like(k))) for k, v in theirs.items()}


def measure(
    config: CLIPConfig, size: int, folder: Path, *, gradients: bool = True, **text: Any
) -> tuple[dict[str, float], dict[str, float]]:
    """Saves a random torch CLIP in `folder`, loads it as ours, and gives both kinds of differences."""
    clip = torch_clip(config, **text)
    clip.save_pretrained(folder)
    images, tokens = batch(config, size)
    loaded, graph, parameters = load(folder)
    assert loaded == config, "the saved config.json reads as another architecture"
    outputs, gradient = ours(graph, parameters, images, tokens, gradients=gradients)
    their_outputs, their_gradient = theirs(clip, images, tokens, gradients=gradients)
    if not gradients:
        return differences(outputs, their_outputs), {}
    # The table maps gradients by name as it maps weights.
    renamed = huggingface.to_hf({k: np.asarray(v) for k, v in gradient.items()}, config)
    return differences(outputs, their_outputs), gradient_differences(renamed, their_gradient)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=LAYERS, help="layers of each tower")
    parser.add_argument("names", nargs="*", default=list(ARCHITECTURES), help="architectures")
    arguments = parser.parse_args()
    columns = [
        "image hidden states", "text hidden states", "image pooled", "text pooled",
        "image projected", "text projected", "logits", "loss",
    ]  # fmt: skip
    print(f"| architecture, {arguments.layers} layers | " + " | ".join(columns) + " | gradients |")
    print("| --- " * (len(columns) + 2) + "|")
    for name in arguments.names:
        with tempfile.TemporaryDirectory() as folder:
            config = reduced(name, arguments.layers)
            outputs, gradients = measure(config, BATCH, Path(folder))
        cells = [f"{outputs[column]:.1e}" for column in columns] + [
            f"{max(gradients.values()):.1e}"
        ]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
