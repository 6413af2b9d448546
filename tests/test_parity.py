"""Our towers against torch's, from the same files: CLIPModel, ViTModel, ViTForImageClassification."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jax_vlffd import model
from jax_vlffd.clip import huggingface
from jax_vlffd.clip.config import CLIPConfig, TextConfig, VisionConfig
from jax_vlffd.config import VIT_MEAN, VIT_STD, ModelConfig
from jax_vlffd.errors import UserError
from tests.support import parity_table

ABSOLUTE = 1e-5
RELATIVE = 1e-4

TINY = CLIPConfig(
    VisionConfig(48, 2, 3, 96, image_size=32, patch_size=8),
    TextConfig(32, 2, 4, 64, vocab_size=60, context_length=12, eos_id=59),
    embed_dim=24,
)


def with_activation(config: CLIPConfig, activation: str) -> CLIPConfig:
    return dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, activation=activation),
        text=dataclasses.replace(config.text, activation=activation),
    )


def assert_close(outputs: dict[str, float], gradients: dict[str, float]) -> None:
    assert {k: v for k, v in outputs.items() if not v <= ABSOLUTE} == {}
    assert {k: v for k, v in gradients.items() if not v <= RELATIVE} == {}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [  # of l14, its outputs are tested with its gradients; of l14_336, only the positions are others
        pytest.param(name, marks=[pytest.mark.campaign] * (name in ("l14", "l14_336")))
        for name in parity_table.ARCHITECTURES
    ],
)
def test_outputs_equal_torch_clip(torch: Any, tmp_path: Path, name: str) -> None:
    config = parity_table.reduced(name)
    gradients = name == "b32"  # of the wider ones in the slow test
    size = parity_table.BATCH if gradients else 2
    outputs, gradient = parity_table.measure(config, size, tmp_path, gradients=gradients)
    assert len(outputs) == 12
    assert_close(outputs, gradient)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "l14",
        *(
            pytest.param(n, marks=pytest.mark.campaign)
            for n in parity_table.ARCHITECTURES[1:]
            if n != "l14"
        ),
    ],
)
def test_gradients_equal_torch_clip(torch: Any, tmp_path: Path, name: str) -> None:
    config = parity_table.reduced(name)
    outputs, gradient = parity_table.measure(config, parity_table.BATCH, tmp_path)
    assert gradient
    assert_close(outputs, gradient)


@pytest.mark.campaign
def test_a_whole_b16_equals_torch_clip(torch: Any, tmp_path: Path) -> None:
    config = CLIPConfig.b16()
    assert_close(*parity_table.measure(config, 3, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["gelu_new", "gelu_pytorch_tanh"])
def test_other_activations_equal_torch(torch: Any, tmp_path: Path, activation: str) -> None:
    config = with_activation(TINY, activation)
    assert_close(*parity_table.measure(config, 4, tmp_path, gradients=False))


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_old_files_that_pool_at_the_highest_id_equal_torch(
    torch: Any, tmp_path: Path, gradients: bool
) -> None:
    config = with_activation(TINY, "gelu")
    result = parity_table.measure(config, 4, tmp_path, gradients=gradients, eos_token_id=2)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["text_config"]["eos_token_id"] == 2, "the file was meant to be of the old kind"
    assert bool(result[1]) == gradients
    assert_close(*result)


def test_files_from_torch_come_back_bitwise(torch: Any, tmp_path: Path) -> None:
    clip = parity_table.torch_clip(TINY)
    clip.save_pretrained(tmp_path / "whole")
    clip.save_pretrained(tmp_path / "sharded", max_shard_size="50KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    before = load_file(tmp_path / "whole" / "model.safetensors")
    for kind in ("whole", "sharded"):
        config, _, parameters = parity_table.load(tmp_path / kind)
        huggingface.save_hf(
            tmp_path / f"{kind}_ours", {k: np.asarray(v) for k, v in parameters.items()}, config
        )
        after = load_file(tmp_path / f"{kind}_ours" / "model.safetensors")
        assert after.keys() == before.keys()
        for key, value in before.items():
            assert (after[key].dtype, after[key].shape) == (value.dtype, value.shape), key
            assert after[key].tobytes() == value.tobytes(), key


def test_the_remedy_for_pickled_weights_works(torch: Any, tmp_path: Path) -> None:
    from transformers import CLIPModel

    clip = parity_table.torch_clip(TINY)
    clip.config.save_pretrained(tmp_path)
    torch.save(clip.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"CLIPModel.from_pretrained\(OLD\).save_pretrained\(NEW\)"):
        huggingface.open_checkpoint(str(tmp_path))
    CLIPModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "new")
    _, _, parameters = parity_table.load(tmp_path / "new")
    query = clip.text_model.encoder.layers[1].self_attn.q_proj.weight.detach().numpy()
    np.testing.assert_array_equal(parameters["text/blocks/attention/query/weight"][1], query)


@pytest.mark.slow
def test_what_we_save_loads_in_torch_clip(torch: Any, tmp_path: Path) -> None:
    from transformers import CLIPModel

    config = ModelConfig(TINY, fusion_heads=3)
    graph, shapes = model.graph_and_shapes(config)
    rng = np.random.default_rng(3)
    parameters = {
        path: jnp.asarray(0.1 * rng.standard_normal(shape.shape), jnp.float32)
        for path, shape in shapes.items()
    }
    huggingface.save_hf(tmp_path, {k: np.asarray(v) for k, v in parameters.items()}, TINY)
    clip, info = CLIPModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    torch.backends.mkldnn.enabled = False
    images, tokens = parity_table.batch(TINY, 4)
    outputs, _ = parity_table.ours(graph, parameters, images, tokens, gradients=False)
    expected, _ = parity_table.theirs(clip.eval(), images, tokens, gradients=False)
    assert_close(parity_table.differences(outputs, expected), {})


def plain_vit(vision: VisionConfig) -> ModelConfig:
    """A plain ViT beside a text tower of the smallest size."""
    text = TextConfig(8, 1, 1, 8, vocab_size=4, context_length=2, eos_id=3)
    return ModelConfig(CLIPConfig(vision, text, 8), fusion_heads=1)


def load_vit(folder: Path) -> tuple[ModelConfig, Any, dict[str, jax.Array]]:
    """The image tower of a plain ViT's folder: config, graph, parameters (the rest is zero)."""
    checkpoint = huggingface.open_checkpoint(str(folder))
    assert checkpoint.clip is None
    config = plain_vit(checkpoint.vision)
    graph, shapes = model.graph_and_shapes(config)
    target = {path: shape for path, shape in shapes.items() if path.startswith("vision/")}
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    loaded = huggingface.load(checkpoint, target, dict.fromkeys(target, one))
    return config, graph, {k: jnp.zeros(v.shape) for k, v in shapes.items()} | loaded


def random_vit(torch: Any, kind: str) -> Any:
    import transformers

    torch.manual_seed(0)
    torch.backends.mkldnn.enabled = False
    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=2, num_attention_heads=3, intermediate_size=768,
        attn_implementation="eager",
    )  # fmt: skip
    return parity_table.perturb(getattr(transformers, kind)(config).eval())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ViTModel", "ViTForImageClassification"])
def test_a_plain_vit_equals_torch(torch: Any, tmp_path: Path, kind: str) -> None:
    vit = random_vit(torch, kind)
    vit.save_pretrained(tmp_path)
    config, graph, parameters = load_vit(tmp_path)
    images, _ = parity_table.batch(config.clip, 2)

    def run(parameters: model.Parameters) -> Any:
        return model.bind(graph, parameters).vision(jnp.asarray(images), hidden_states=True)

    with jax.default_matmul_precision("highest"):
        ours = jax.jit(run)(parameters)
    tower = vit if kind == "ViTModel" else vit.vit
    with torch.no_grad():
        theirs = tower(
            torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), output_hidden_states=True
        )
    differences = parity_table.differences(
        {"hidden": ours.hidden_states, "tokens": ours.tokens, "pooled": ours.pooled},
        {
            "hidden": torch.stack(theirs.hidden_states).numpy(),
            "tokens": theirs.last_hidden_state.numpy(),
            "pooled": theirs.last_hidden_state[:, 0].numpy(),
        },
    )
    assert_close(differences, {})


@pytest.mark.slow
def test_gradients_of_a_plain_vit_equal_torch(torch: Any, tmp_path: Path) -> None:
    vit = random_vit(torch, "ViTModel")
    vit.save_pretrained(tmp_path / "weights")
    config, graph, parameters = load_vit(tmp_path / "weights")
    images, _ = parity_table.batch(config.clip, 2)
    direction = np.random.default_rng(1).standard_normal(192).astype(np.float32)

    def score(parameters: model.Parameters) -> jax.Array:
        return (model.bind(graph, parameters).vision(jnp.asarray(images)).pooled @ direction).sum()

    with jax.default_matmul_precision("highest"):
        gradient = jax.jit(jax.grad(score))(parameters)
    out = vit(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).last_hidden_state
    (out[:, 0] @ torch.from_numpy(direction)).sum().backward()
    # Torch's gradients take the road of its weights: into a file, and through our table.
    with torch.no_grad():
        for parameter in vit.parameters():
            result = parameter.grad
            parameter.copy_(torch.zeros_like(parameter) if result is None else result)
    vit.save_pretrained(tmp_path / "gradients")
    _, _, expected = load_vit(tmp_path / "gradients")
    differences = parity_table.gradient_differences(
        {k: np.asarray(v) for k, v in gradient.items() if k.startswith("vision/")},
        {k: np.asarray(v) for k, v in expected.items() if k.startswith("vision/")},
    )
    assert_close({}, differences)


@pytest.fixture(scope="module")
def vit_tiny(shared_dir: Path) -> Path:
    folder = shared_dir / "weights" / "vit-tiny-patch16-224-hf"
    if not folder.is_dir():
        pytest.skip(f"no ViT-Tiny at {folder}")
    return folder


def photograph(name: str) -> np.ndarray:
    """One uint8 picture [1, 224, 224, 3]: the shorter side to 248, then the middle."""
    data = pytest.importorskip("skimage.data", reason="scikit-image is not installed")
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(getattr(data, name)())
    scale = 248 / min(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    left, top = (width - 224) // 2, (height - 224) // 2
    picture = picture.resize((width, height), image.Resampling.BICUBIC)
    return np.asarray(picture.crop((left, top, left + 224, top + 224)))[None]


@pytest.mark.parametrize(
    ("name", "label", "probability"),
    [("chelsea", "Egyptian cat", 0.82), ("coffee", "espresso", 0.94)],
)
def test_a_real_vit_knows_what_it_sees(
    vit_tiny: Path, name: str, label: str, probability: float
) -> None:
    _, graph, parameters = load_vit(vit_tiny)
    head = load_file(vit_tiny / "model.safetensors")
    images = model.normalize(jnp.asarray(photograph(name)), VIT_MEAN, VIT_STD)
    pooled = jax.jit(lambda p: model.bind(graph, p).vision(images).pooled)(parameters)
    logits = np.asarray(pooled[0]) @ head["classifier.weight"].T + head["classifier.bias"]
    probabilities = np.asarray(jax.nn.softmax(logits))
    best = int(probabilities.argmax())
    labels = json.loads((vit_tiny / "config.json").read_text())["id2label"]
    assert labels[str(best)] == label
    assert probabilities[best] == pytest.approx(probability, abs=0.005)


@pytest.mark.slow
def test_a_real_vit_is_as_near_to_the_truth_as_torch(torch: Any, vit_tiny: Path) -> None:
    # Real features reach 490 in a few channels, where neighboring fp32 numbers are 3e-5 apart: torch in
    # fp32 is itself 4e-4 off torch in fp64. So our largest error is held against twice torch's own, and
    # the root of our mean square against torch's.
    from transformers import ViTModel

    torch.backends.mkldnn.enabled = False
    vit = ViTModel.from_pretrained(vit_tiny, attn_implementation="eager", add_pooling_layer=False)
    images = np.asarray(model.normalize(jnp.asarray(photograph("chelsea")), VIT_MEAN, VIT_STD))
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    _, graph, parameters = load_vit(vit_tiny)

    def run(parameters: model.Parameters) -> Any:
        return model.bind(graph, parameters).vision(jnp.asarray(images), hidden_states=True)

    with jax.default_matmul_precision("highest"):
        ours = jax.jit(run)(parameters)
    with torch.no_grad():
        theirs = vit.eval()(pixels, output_hidden_states=True)
        truth = vit.double()(pixels.double(), output_hidden_states=True)

    def errors(result: Any, true: Any) -> tuple[float, float]:
        """The largest, and the root of the mean square."""
        error = np.abs(np.asarray(result, np.float64) - true.numpy())
        return float(error.max()), float(np.sqrt(np.square(error).mean()))

    for layer, true in enumerate(truth.hidden_states):
        most, mean = errors(ours.hidden_states[layer], true)
        their_most, their_mean = errors(theirs.hidden_states[layer], true)
        assert most <= 2 * their_most + 1e-5, layer
        assert mean <= 1.5 * their_mean, layer
    last, their_last = truth.last_hidden_state, theirs.last_hidden_state
    for name, result, expected, true in (
        ("tokens", ours.tokens, their_last, last),
        ("pooled", ours.pooled, their_last[:, 0], last[:, 0]),
    ):
        most, mean = errors(result, true)
        their_most, their_mean = errors(expected, true)
        assert most <= 2 * their_most, name
        assert mean <= 1.5 * their_mean, name
