"""Exports: what transformers, PEFT and jax.export read, what our commands read back, what is refused."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export
from safetensors.numpy import load_file

from configs.base import recipe
from data_pipeline.loader import EvalLoader
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from jax_vlffd import Detector
from jax_vlffd.clip import weights
from jax_vlffd.config import TuningConfig
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.export import card, folder, huggingface, program
from jax_vlffd.model import bind, graph_and_shapes, normalise
from jax_vlffd.training.checkpoint import Checkpoints
from jax_vlffd.training.state import TrainState
from launch import exporting, runs
from tests import tiny, tiny_workdir

STEP = 3


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.pack_set(tmp_path_factory.mktemp("set"))


def variant(name: str) -> dict[str, Any]:
    """Settings of a run: CLIP, CLIP with adapters, a plain ViT, CLIP with a patch bias."""
    model = tiny.model(lora_rank=2 if name == "lora" else 0)
    vision = {
        "vit": {"patch_bias": True, "pre_layernorm": False, "layernorm_eps": 1e-6},
        "bias": {"patch_bias": True},
    }.get(name, {})
    clip = dataclasses.replace(tiny.CLIP, vision=dataclasses.replace(tiny.VISION, **vision))
    tuning = TuningConfig("lora", "lora") if name == "lora" else TuningConfig()
    return {"model": dataclasses.replace(model, clip=clip), "tuning": tuning}


def draw(shapes: dict[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Parameters of which none is zero, one, or small enough to be lost."""
    rng = np.random.default_rng(0)
    values = {}
    for path, shape in shapes.items():
        value = 0.2 * rng.standard_normal(shape.shape) + float(path.endswith("/scale"))
        values[path] = np.asarray(value, np.float32)
    return values


def make_workdir(workdir: Path, packed: Path, **settings: Any) -> Path:
    """A workdir as training leaves it, its parameters drawn."""
    run, data = tiny.settings(packed, **settings)
    texts = [f"This is a fake face. The {word} is odd." for word in ("mouth", "nose", "eye")]
    tokenizer = train_tokenizer(texts, tiny.TEXT.vocab_size, workdir / runs.TOKENIZER)
    runs.save_config(workdir, json.loads(recipe(run, data).to_json()))
    plan = runs.make_plan(runs.with_tokenizer(run, tokenizer), data, steps=1)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), plan.abstract.optimizer)
    state = TrainState(np.asarray(STEP, np.int32), draw(dict(plan.shapes)), zeros)
    state = jax.tree.map(jax.device_put, state, plan.sharding)
    with Checkpoints(workdir / runs.CHECKPOINTS) as checkpoints:
        checkpoints.save(state, {}, {"auc": 0.75})
    calibration = Calibration(1.3, 0.5, 0.4, 0.6, 0.05, 24)
    (workdir / runs.CALIBRATION).write_text(calibration.to_json())
    (workdir / runs.EXPLANATION).write_bytes(tiny_workdir.explainer().to_bytes())
    (workdir / runs.SUMMARY).write_text(json.dumps({"validation": {"auc": 0.75}, "parameters": 5}))
    return workdir


Made = Callable[[str], tuple[Path, Path]]


@pytest.fixture(scope="module")
def made(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Workdir and export of a variant, each made once."""
    done: dict[str, tuple[Path, Path]] = {}

    def make(name: str) -> tuple[Path, Path]:
        if name not in done:
            root = tmp_path_factory.mktemp(name)
            workdir = make_workdir(root / "run", packed, **variant(name))
            exporting.export(workdir, root / "export")
            assert sorted(path.name for path in root.iterdir()) == ["export", "run"]
            done[name] = workdir, root / "export"
        return done[name]

    return make


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="torch is not installed (extra `parity`)")


SIDE = tiny.VISION.image_size
IMAGES = np.random.default_rng(1).integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)


@dataclasses.dataclass(frozen=True)
class Trained:
    """A run, its export, and what the run's model gives for IMAGES and `tokens`, adapters unmerged."""

    workdir: Path
    out: Path
    run: runs.Run
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
            image = model.encode_image(normalise(x, run.model.image_mean, run.model.image_std))
            return {
                "logits": model.classify_image(image.pooled),
                "embedding": model.embed_image(image.pooled),
                "pooled": image.pooled,
                "text": model.embed_text(model.encode_text(y).pooled),
            }

        parameters = {path: np.asarray(value) for path, value in run.parameters.items()}
        found = features(parameters, IMAGES, tokens)
        return Trained(workdir, out, run, tokens, {k: np.asarray(v) for k, v in found.items()})

    return compute


def pixels(torch: Any, run: runs.Run) -> Any:
    x = normalise(jnp.asarray(IMAGES), run.model.image_mean, run.model.image_std)
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def near(found: Any, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-5)


def load(kind: Any, path: Path, **more: Any) -> Any:
    model, told = kind.from_pretrained(path, output_loading_info=True, **more)
    assert not any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


# --- transformers ---


@pytest.mark.parametrize("name", ["clip", "lora", "bias"])
def test_torch_s_clip_gives_the_same_features(
    torch: Any, trained: Callable[[str], Trained], name: str
) -> None:
    from transformers import CLIPModel

    it = trained(name)
    clip = load(CLIPModel, it.out / "hf")
    seen = pixels(torch, it.run)
    with torch.no_grad():
        found = clip(input_ids=torch.from_numpy(it.tokens).long(), pixel_values=seen)
        near(clip.vision_model(seen).pooler_output, it.wanted["pooled"])
    near(found.image_embeds, it.wanted["embedding"])
    near(found.text_embeds, it.wanted["text"])


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
    found = processor(images=list(IMAGES), return_tensors="np")["pixel_values"]
    wanted = normalise(jnp.asarray(IMAGES), run.model.image_mean, run.model.image_std)
    np.testing.assert_allclose(found.transpose(0, 2, 3, 1), np.asarray(wanted), atol=1e-5)


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
        found, wanted = (m.eval().get_image_features(seen) for m in (adapted, merged))
    found, wanted = (getattr(x, "pooler_output", x) for x in (found, wanted))
    np.testing.assert_allclose(found.numpy(), wanted.numpy(), atol=1e-5)


# --- StableHLO ---


def test_the_program_runs_alone_for_any_batch(trained: Callable[[str], Trained]) -> None:
    it = trained("lora")
    read = jax_export.deserialize(bytearray((it.out / "model.stablehlo").read_bytes()))
    assert read.platforms == ("cpu", "cuda", "tpu")
    for count in (1, len(IMAGES)):
        logits, embedding = read.call(IMAGES[:count])
        np.testing.assert_allclose(logits, it.wanted["logits"][:count], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(embedding, it.wanted["embedding"][:count], atol=1e-5)


def test_a_branch_too_large_for_the_format_is_told_and_the_rest_is_exported(
    made: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(program, "MOST_BYTES", 1000)
    exporting.export(made("clip")[0], tmp_path / "out")
    assert not (tmp_path / "out" / "model.stablehlo").exists()
    assert (tmp_path / "out" / "hf" / "model.safetensors").exists()
    for told in (capsys.readouterr().out, (tmp_path / "out" / "README.md").read_text()):
        assert "There is no `model.stablehlo`: the image branch takes" in told


# --- read back ---


@pytest.mark.parametrize("name", ["lora", "vit"])
def test_an_export_scores_as_its_run_to_the_bit(made: Made, packed: Path, name: str) -> None:
    workdir, out = made(name)
    before, after = runs.load_run(workdir), runs.load_run(out)
    assert after.step == before.step == STEP
    assert after.calibration == before.calibration is not None
    assert after.name == before.name
    assert after.methods == before.methods == ("Deepfakes", "FaceSwap")
    wanted, found = (run.score(packed, "validation") for run in (before, after))
    assert wanted.id.tolist() == found.id.tolist()
    assert wanted.logit.tobytes() == found.logit.tobytes()


def test_the_detector_of_an_export_answers_as_that_of_its_run(made: Made) -> None:
    workdir, out = made("lora")
    before, after = (Detector.from_pretrained(path) for path in (workdir, out))
    wanted, found = (detector.answer(list(IMAGES)) for detector in (before, after))
    assert found == wanted
    assert found[0].regions is not None
    assert np.array_equal(found[0].classifier_map, wanted[0].classifier_map)
    assert after.trained.hash() == before.trained.hash()


def test_the_detector_refuses_what_is_no_export(copy: Path, tmp_path: Path) -> None:
    (copy / "heads.safetensors").unlink()
    with pytest.raises(UserError, match=r"heads.safetensors of the export is missing"):
        Detector.from_pretrained(copy)
    with pytest.raises(UserError, match=r"or a hub id such as"):
        Detector.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match=r"give the --workdir of launch.train, or the --out"):
        Detector.from_pretrained(tmp_path)


def test_what_is_for_other_libraries_may_be_left_behind(copy: Path) -> None:
    shutil.rmtree(copy / "hf")
    (copy / "model.stablehlo").unlink()
    assert runs.load_run(copy).step == STEP


@pytest.mark.slow
def test_the_commands_export_and_evaluate(made: Made, packed: Path, tmp_path: Path) -> None:
    workdir, _ = made("clip")
    out = tmp_path / "out"
    done = tiny.command("launch.export", f"--workdir={workdir}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"exported step {STEP} of {workdir} to {out}, ")
    done = tiny.command(
        "launch.evaluate", f"--workdir={out}", f"--data=tiny={packed}", "--split=validation",
        f"--out={tmp_path / 'metrics'}", "--bootstrap=20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics" / "metrics.json").read_text())
    assert metrics["detector"] == "run"
    again = tiny.command("launch.export", f"--workdir={workdir}", f"--out={out}")
    assert again.returncode == 1
    assert again.stderr == (
        f"error: {out} is there already; choose another --out, or remove it first\n"
    )


def test_checksums_are_those_of_every_file(made: Made) -> None:
    _, out = made("clip")
    lines = (out / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    there = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert listed.keys() == there.keys() - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == digest


# --- what is refused ---


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made("clip")[1], tmp_path / "export"))


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(UserError) as told:
        runs.load_run(path)
    assert "\n" not in str(told.value)
    for part in parts:
        assert part in str(told.value)


def test_an_export_with_missing_files_is_named(copy: Path) -> None:
    (copy / "heads.safetensors").unlink()
    refused(copy, str(copy), "heads.safetensors of the export is missing; copy the whole folder")
    shutil.rmtree(copy / "orbax")
    refused(copy, "heads.safetensors, orbax/_CHECKPOINT_METADATA", "and ", " more")
    (copy / "SHA256SUMS").unlink()
    refused(copy, "SHA256SUMS: cannot be read", "copy the whole export again")


def test_parameters_that_lack_a_head_are_refused(copy: Path) -> None:
    values = {path: np.asarray(v) for path, v in runs.load_run(copy).parameters.items()}
    shutil.rmtree(copy / "orbax")
    folder.save_parameters(copy, {k: v for k, v in values.items() if "image_head" not in k})
    folder.write_checksums(copy)
    refused(
        copy, str(copy / "orbax"), "not the parameters of the model that", "config.json describes: ",
        "image_head/bias is missing; image_head/weight is missing; copy the whole",
    )  # fmt: skip


def test_an_export_of_another_architecture_is_refused(copy: Path) -> None:
    settings = json.loads((copy / "config.json").read_text())
    settings["config"]["model"]["vision"]["layers"] = 3
    (copy / "config.json").write_text(json.dumps(settings))
    refused(
        copy, str(copy / "orbax"), "not the parameters of the model that", "config.json describes: ",
        "vision/blocks/attention/key/bias is [2, 32], not [3, 32]", " more; ",
    )  # fmt: skip


def test_cut_parameters_are_told(copy: Path) -> None:
    for file in (copy / "orbax").rglob("*"):
        if file.is_file() and file.stat().st_size > 4096:
            file.write_bytes(file.read_bytes()[:2048])
    refused(copy, str(copy / "orbax"), "damaged (", "copy the whole export again")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("export.json", "{", "export.json: not JSON"),
        ("export.json", '{"version": 9}', "not an export of version 1"),
        ("export.json", '{"version": 1}', "names no step"),
        ("SHA256SUMS", "0  ../../etc/passwd\n", "no list of an export's files"),
        ("calibration.json", "{}", "not a calibration of version"),
        ("config.json", "{}", "not a run's config"),
    ],
)
def test_a_damaged_export_is_named(copy: Path, file: str, content: str, message: str) -> None:
    (copy / file).write_text(content)
    refused(copy, str(copy / file), message)


def test_what_cannot_be_exported_leaves_nothing(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no trained workdir and no export"):
        exporting.export(tmp_path / "none", tmp_path / "out")
    workdir = Path(shutil.copytree(made("clip")[0], tmp_path / "run"))
    # A tokenizer of another model: found while the export is under way.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card, "render", lambda facts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            exporting.export(workdir, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


# --- the model card ---


def test_the_card_tells_data_metrics_calibration_use_and_limits(made: Made, packed: Path) -> None:
    workdir, _ = made("clip")
    run = runs.load_run(workdir)
    metrics = {
        "detector": "a|b", "split": "test",
        "sets": {"seen": {
            "frame_auc": 0.9, "intervals": {"frame_auc": [0.85, 0.95]},
            "counts": {"frames_real": 3, "frames_fake": 4, "videos_real": 1, "videos_fake": 2},
            "methods": {"Deepfakes": {"frame_auc": 0.8}},
        }},
    }  # fmt: skip
    cards = {str(packed): json.loads((packed / "data_card.json").read_text()), "gone": None}
    facts = card.Facts(
        "m", "clip", run.config, 3, ["hf/"], {}, run.calibration, cards, metrics
    )  # fmt: skip
    text = card.render(facts)
    assert text.startswith("---\nlibrary_name: jax\n")
    assert "| seen | 0.900 [0.850, 0.950] | - |" in text
    assert "| seen, Deepfakes | 0.800 |" in text
    assert "| 7 (3) |" in text
    assert "a\\|b" in text
    assert "| train | drawn | Deepfakes | fake | 8 |" in text
    assert "`gone`: the packed set was not there" in text
    assert "divided by 1.3." in text
    for title in ("Intended use", "Limits", "Ethics", "Settings", "Files", "Calibration"):
        assert f"\n## {title}\n" in text
    bare = card.render(dataclasses.replace(facts, metrics=None, calibration=None))
    assert "No evaluation on a test set came with this export" in bare
    assert "None was fitted" in bare


def test_a_metrics_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(Exception, match=r"not a metrics.json of launch.evaluate"):
        exporting.evaluation_of(tmp_path, str(tmp_path / "metrics.json"))
    assert exporting.evaluation_of(tmp_path, None) is None


def test_an_evaluation_in_the_workdir_is_found(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text('{"sets": {}}')
    assert exporting.evaluation_of(tmp_path, None) == {"sets": {}}


def test_merging_is_exact_where_there_are_no_adapters() -> None:
    model = tiny.model()
    values = tiny.start()
    merged, config = huggingface.merge(values, model)
    assert config == model
    assert tiny.difference(merged, values) == 0


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
