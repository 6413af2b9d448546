"""Exports: what transformers, PEFT and jax.export read of them."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from safetensors.numpy import load_file

from data_pipeline.loading.loader import EvalLoader
from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd.clip import huggingface as weights
from jax_vlffd.export import huggingface, stablehlo
from jax_vlffd.model import bind, graph_and_shapes, normalize
from launch.experiment import export
from launch.experiment import workdir as runs
from tests.support import tiny
from tests.support.tiny_export import IMAGES, Made


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run, its export, and what the run's model gives for IMAGES and `tokens`, adapters unmerged."""

    workdir: Path
    out: Path
    run: runs.TrainedRun
    tokens: np.ndarray
    wanted: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def trained(made: Made) -> Callable[[str], Trained]:
    @functools.cache
    def compute(name: str) -> Trained:
        workdir, out = made(name)
        run = runs.load_run(workdir)
        graph, _ = graph_and_shapes(run.model)
        tokens = tiny.batch(size=len(IMAGES))["tokens"]
        tokens = np.where(tokens == tiny.EOS, run.model.clip.text.eos_id, tokens)

        @jax.jit
        def features(parameters: Any, x: Any, y: Any) -> dict[str, Any]:
            model = bind(graph, parameters)
            image = model.encode_image(normalize(x, run.model.image_mean, run.model.image_std))
            return {
                "logits": model.classify_image(image.pooled),
                "embedding": model.embed_image(image.pooled),
                "pooled": image.pooled,
                "text": model.embed_text(model.encode_text(y).pooled),
            }

        parameters = {path: np.asarray(value) for path, value in run.parameters.items()}
        outputs = features(parameters, IMAGES, tokens)
        return Trained(workdir, out, run, tokens, {k: np.asarray(v) for k, v in outputs.items()})

    return compute


def pixels(torch: Any, run: runs.TrainedRun) -> Any:
    x = normalize(jnp.asarray(IMAGES), run.model.image_mean, run.model.image_std)
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def near(actual: Any, expected: np.ndarray) -> None:
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-5, atol=1e-5)


def load(kind: Any, path: Path, **more: Any) -> Any:
    model, info = kind.from_pretrained(path, output_loading_info=True, **more)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


# --- transformers ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip", "lora", "bias"])
def test_torch_s_clip_gives_the_same_features(
    torch: Any, trained: Callable[[str], Trained], name: str
) -> None:
    from transformers import CLIPModel

    it = trained(name)
    clip = load(CLIPModel, it.out / "hf")
    seen = pixels(torch, it.run)
    with torch.no_grad():
        outputs = clip(input_ids=torch.from_numpy(it.tokens).long(), pixel_values=seen)
        near(clip.vision_model(seen).pooler_output, it.wanted["pooled"])
    near(outputs.image_embeds, it.wanted["embedding"])
    near(outputs.text_embeds, it.wanted["text"])


def test_torch_s_vit_gives_the_same_features(torch: Any, trained: Callable[[str], Trained]) -> None:
    from transformers import ViTModel

    it = trained("vit")
    vit = load(ViTModel, it.out / "hf", add_pooling_layer=False)
    with torch.no_grad():
        near(vit(pixels(torch, it.run)).last_hidden_state[:, 0], it.wanted["pooled"])
    heads = load_file(it.out / "heads.safetensors")
    assert {"text/token_embedding", "visual_projection/weight", "logit_scale"} <= heads.keys()
    assert "ViTModel" in (it.out / "README.md").read_text()
    assert not (it.out / "hf" / "vocab.json").exists()


def test_transformers_reads_tokenizer_and_picture_settings(made: Made) -> None:
    from transformers import CLIPImageProcessorPil, CLIPTokenizer

    workdir, out = made("clip")
    run = runs.load_run(workdir)
    text = "This is a fake face. The mouth is odd."
    theirs = CLIPTokenizer.from_pretrained(out / "hf")(text)["input_ids"]
    assert run.tokenizer.encode([text], len(theirs))[0].tolist() == theirs
    assert Tokenizer.load(out / "tokenizer").eos_id == run.tokenizer.eos_id
    processor = CLIPImageProcessorPil.from_pretrained(out / "hf")
    # Of the model's size already, so that nothing is resized: the rest is the same to rounding.
    outputs = processor(images=list(IMAGES), return_tensors="np")["pixel_values"]
    wanted = normalize(jnp.asarray(IMAGES), run.model.image_mean, run.model.image_std)
    np.testing.assert_allclose(outputs.transpose(0, 2, 3, 1), np.asarray(wanted), atol=1e-5)


def test_every_parameter_is_in_hf_or_in_the_heads_once(made: Made) -> None:
    _, out = made("clip")
    checkpoint = weights.open_checkpoint(str(out / "hf"))
    heads = load_file(out / "heads.safetensors")
    _, shapes = graph_and_shapes(runs.load_run(out).model)
    assert checkpoint.clip is not None
    held = {ours for ours, _ in weights.CLIP_TABLE}
    assert held.isdisjoint(heads)
    assert held | heads.keys() == shapes.keys()
    assert {path: value.shape for path, value in heads.items()} == {
        path: shapes[path].shape for path in heads
    }


# --- adapters ---


def test_the_adapter_on_the_base_is_what_hf_has_merged(made: Made, tmp_path: Path) -> None:
    workdir, out = made("lora")
    run = runs.load_run(workdir)
    values = {path: np.asarray(value) for path, value in run.parameters.items()}
    weights.save_hf(tmp_path, values, run.model.clip)
    base, merged = (load_file(x / "model.safetensors") for x in (tmp_path, out / "hf"))
    tensors = load_file(out / "adapter" / "adapter_model.safetensors")
    settings = json.loads((out / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == [
        "self_attn.k_proj", "self_attn.out_proj", "self_attn.q_proj", "self_attn.v_proj",
    ]  # fmt: skip
    scale = settings["lora_alpha"] / settings["r"]
    changed = 0
    for key, value in base.items():
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        if f"{stem}.lora_A.weight" in tensors:
            value = (
                value + scale * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
            )
            changed += 1
        np.testing.assert_allclose(merged[key], value, atol=1e-6, err_msg=key)
    assert changed == 2 * 2 * 4
    assert len(tensors) == 2 * changed + 2


def test_peft_reads_the_adapter(torch: Any, made: Made, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    from transformers import CLIPModel

    workdir, out = made("lora")
    run = runs.load_run(workdir)
    values = {path: np.asarray(value) for path, value in run.parameters.items()}
    weights.save_hf(tmp_path, values, run.model.clip)
    adapted = peft.PeftModel.from_pretrained(CLIPModel.from_pretrained(tmp_path), out / "adapter")
    merged = CLIPModel.from_pretrained(out / "hf")
    seen = pixels(torch, run)
    with torch.no_grad():
        outputs, wanted = (m.eval().get_image_features(seen) for m in (adapted, merged))
    outputs, wanted = (getattr(x, "pooler_output", x) for x in (outputs, wanted))
    np.testing.assert_allclose(outputs.numpy(), wanted.numpy(), atol=1e-5)


# --- StableHLO ---


def test_the_program_runs_alone_for_any_batch(trained: Callable[[str], Trained]) -> None:
    it = trained("lora")
    read = jax_export.deserialize(bytearray((it.out / "model.stablehlo").read_bytes()))
    assert read.platforms == ("cpu", "cuda", "tpu")
    for count in (1, len(IMAGES)):
        logits, embedding = read.call(IMAGES[:count])
        np.testing.assert_allclose(logits, it.wanted["logits"][:count], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(embedding, it.wanted["embedding"][:count], atol=1e-5)


def test_a_branch_too_large_for_the_format_is_reported_and_the_rest_is_exported(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir, _ = made("clip")  # the export that other tests read is of the usual limit
    monkeypatch.setattr(stablehlo, "MAX_BYTES", 1000)
    export.export(workdir, tmp_path / "out")
    assert not (tmp_path / "out" / "model.stablehlo").exists()
    assert (tmp_path / "out" / "hf" / "model.safetensors").exists()
    for text in (capsys.readouterr().out, (tmp_path / "out" / "README.md").read_text()):
        assert "There is no `model.stablehlo`: the image branch takes" in text


def test_merging_is_exact_where_there_are_no_adapters() -> None:
    model = tiny.model()
    values = tiny.start()
    merged, config = huggingface.merge(values, model)
    assert config == model
    assert tiny.difference(merged, values) == 0


@pytest.mark.slow
def test_loader_is_for_uint8_images_of_the_program_s_size(packed: Path, made: Made) -> None:
    """A batch of the loader goes into the program as it is."""
    _, out = made("clip")
    run = runs.load_run(out)
    loader = EvalLoader(
        packed, "validation", image_size=tiny.VISION.image_size, tokenizer=run.tokenizer,
        text_length=12, batch_size=4, captions="label_only",
    )  # fmt: skip
    batch = next(iter(loader))
    read = jax_export.deserialize(bytearray((out / "model.stablehlo").read_bytes()))
    margin = np.diff(np.asarray(read.call(batch["image"])[0], np.float64), axis=1)[:, 0]
    scores = run.score(packed, "validation")
    order = {name: n for n, name in enumerate(scores.id.tolist())}
    rows = [order[record.id] for record in loader.metadata(batch["index"])]
    np.testing.assert_allclose(margin, scores.logit[rows], atol=1e-5)
