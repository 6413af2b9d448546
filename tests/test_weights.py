"""Hugging Face files in, the same files out; and what is said of files that do not fit."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jax_vlffd import model
from jax_vlffd.clip import weights
from jax_vlffd.clip.config import CLIPConfig, TextConfig, VisionConfig, clip_to_hf
from jax_vlffd.config import MeshConfig, ModelConfig
from jax_vlffd.errors import UserError
from jax_vlffd.training import rules
from jax_vlffd.training.mesh import make_mesh

CONFIG = CLIPConfig(
    VisionConfig(32, 2, 4, 64, image_size=32, patch_size=8),
    TextConfig(16, 3, 2, 32, vocab_size=48, context_length=12, eos_id=47),
    embed_dim=8,
)
POSITION = "vision_model.embeddings.position_embedding.weight"


def shapes_of(config: CLIPConfig) -> dict[str, jax.ShapeDtypeStruct]:
    _, shapes = model.graph_and_shapes(ModelConfig(config, fusion_heads=4))
    return {ours: shapes[ours] for ours, _ in weights.CLIP_TABLE}


SHAPES = shapes_of(CONFIG)


@pytest.fixture(scope="module")
def parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in SHAPES.items()}


@pytest.fixture(scope="module")
def tensors(parameters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same under Hugging Face's keys."""
    return weights.to_hf(parameters, CONFIG)


@pytest.fixture
def write(tmp_path: Path, tensors: dict[str, np.ndarray]) -> Callable[..., Path]:
    """Writes a checkpoint folder: other tensors, another config, or no weights (False)."""

    def make(found: Any = None, config: Any = None) -> Path:
        text = json.dumps(clip_to_hf(CONFIG) if config is None else config)
        (tmp_path / "config.json").write_text(text)
        if found is not False:
            save_file(tensors if found is None else found, tmp_path / "model.safetensors")
        return tmp_path

    return make


def load(
    folder: Path, shapes: dict[str, jax.ShapeDtypeStruct] = SHAPES, shardings: Any = None
) -> dict[str, jax.Array]:
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    shardings = shardings or dict.fromkeys(shapes, one)
    return weights.load(weights.open_checkpoint(str(folder)), shapes, shardings)


def refusal(folder: Path | str, **kwargs: Any) -> str:
    """The message of the UserError that opening or loading raises: one line."""
    with pytest.raises(UserError) as caught:
        load(folder, **kwargs)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


# What fits


def test_files_come_back_bitwise(
    write: Callable[..., Path], tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    loaded = load(write())
    weights.save_hf(tmp_path / "ours", {k: np.asarray(v) for k, v in loaded.items()}, CONFIG)
    again = load_file(tmp_path / "ours" / "model.safetensors")
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert (again[key].dtype, again[key].shape) == (value.dtype, value.shape), key
        assert again[key].tobytes() == value.tobytes(), key
    assert weights.open_checkpoint(str(tmp_path / "ours")).clip == CONFIG


def test_a_scalar_stays_a_scalar(tensors: dict[str, np.ndarray]) -> None:
    assert tensors["logit_scale"].shape == ()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_load_into_fp32(
    write: Callable[..., Path],
    tensors: dict[str, np.ndarray],
    parameters: dict[str, np.ndarray],
    dtype: Any,
) -> None:
    loaded = load(write({k: v.astype(dtype) for k, v in tensors.items()}))
    for path, value in loaded.items():
        assert value.dtype == np.float32
        expected = parameters[path].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(value, expected)


def test_shards_load_as_one_file(
    write: Callable[..., Path], tensors: dict[str, np.ndarray], parameters: dict[str, np.ndarray]
) -> None:
    folder = write(False)
    index = {}
    for part, keys in enumerate(np.array_split(sorted(tensors), 3)):
        name = f"model-{part + 1:05d}-of-00003.safetensors"
        save_file({key: tensors[key] for key in keys}, folder / name)
        index |= {str(key): name for key in keys}
    text = json.dumps({"metadata": {"total_size": 0}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    loaded = load(folder)
    for path, value in parameters.items():
        np.testing.assert_array_equal(loaded[path], value)

    (folder / "model-00002-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "model-00002-of-00003.safetensors is missing" in message


def test_old_buffers_and_one_extra_axis_are_no_fault(
    write: Callable[..., Path], tensors: dict[str, np.ndarray], parameters: dict[str, np.ndarray]
) -> None:
    extra = {
        "text_model.embeddings.position_ids": np.arange(12)[None],
        "vision_model.embeddings.position_ids": np.arange(17)[None],
        "logit_scale": tensors["logit_scale"].reshape(1),
    }
    loaded = load(write(tensors | extra))
    np.testing.assert_array_equal(loaded["logit_scale"], parameters["logit_scale"])


@pytest.mark.parametrize("mesh", [(1, 4, 2), (2, 2, 2), (8, 1, 1), (1, 8, 1), (1, 1, 8)])
def test_each_device_gets_its_slice(
    write: Callable[..., Path], parameters: dict[str, np.ndarray], mesh: tuple[int, int, int]
) -> None:
    data, fsdp, tensor = mesh
    devices = make_mesh(MeshConfig(data, fsdp, tensor))
    shardings = rules.shardings(SHAPES, rules.match(SHAPES), devices)
    loaded = load(write(), shardings=shardings)
    for path, value in loaded.items():
        assert value.sharding == shardings[path]
        assert len(value.addressable_shards) == 8
        for shard in value.addressable_shards:
            np.testing.assert_array_equal(shard.data, parameters[path][shard.index])
    query = loaded["vision/blocks/attention/query/weight"]
    part = query.addressable_shards[0].data.size
    assert part * fsdp * tensor == query.size


def test_only_slices_are_read(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    read: dict[str, int] = {}

    class Part:
        def __init__(self, part: Any, key: str):
            self.part, self.key = part, key
            self.get_shape, self.get_dtype = part.get_shape, part.get_dtype

        def __getitem__(self, index: Any) -> np.ndarray:
            value: np.ndarray = self.part[index]
            read[self.key] = read.get(self.key, 0) + value.size
            return value

    class File:
        def __init__(self, path: Path, framework: str):
            self.handle = safe_open(path, framework=framework)

        def __enter__(self) -> File:
            self.file = self.handle.__enter__()
            self.keys = self.file.keys
            return self

        def __exit__(self, *error: object) -> None:
            self.handle.__exit__(*error)

        def get_slice(self, key: str) -> Part:
            return Part(self.file.get_slice(key), key)

    safe_open = weights.safe_open
    monkeypatch.setattr(weights, "safe_open", File)
    devices = make_mesh(MeshConfig(1, 4, 2))
    loaded = load(write(), shardings=rules.shardings(SHAPES, rules.match(SHAPES), devices))
    # Eight devices hold eight different slices: together they are the tensor once, not eight times.
    table = dict(weights.CLIP_TABLE)
    for path in ("attention/query", "attention/out", "mlp/fc1", "mlp/fc2"):
        for tower in ("vision", "text"):
            ours = f"{tower}/blocks/{path}/weight"
            total = sum(read[table[ours].format(n)] for n in range(len(loaded[ours])))
            assert total == loaded[ours].size, ours


# Position embeddings of another image size


def test_positions_interpolate_to_the_models_image_size(
    write: Callable[..., Path], parameters: dict[str, np.ndarray]
) -> None:
    larger = dataclasses.replace(CONFIG, vision=dataclasses.replace(CONFIG.vision, image_size=48))
    loaded = load(write(), shapes=shapes_of(larger))
    found = parameters["vision/position_embedding"]
    assert loaded["vision/position_embedding"].shape == (37, 32)
    np.testing.assert_array_equal(
        loaded["vision/position_embedding"], weights.interpolate_positions(found, 37)
    )
    for path in SHAPES.keys() - {"vision/position_embedding"}:
        np.testing.assert_array_equal(loaded[path], parameters[path])


@settings(deadline=None, max_examples=15)
@given(old=st.integers(1, 24), new=st.integers(1, 24), value=st.floats(-3, 3, width=32))
def test_a_constant_grid_stays_constant(old: int, new: int, value: float) -> None:
    positions = np.full((old * old + 1, 2), value, np.float32)
    positions[0] = 7
    result = weights.interpolate_positions(positions, new * new + 1)
    assert result.shape == (new * new + 1, 2)
    np.testing.assert_array_equal(result[0], 7)
    # Sixteen fp32 products, whose weights sum to one but for rounding; the least numbers lose bits.
    np.testing.assert_allclose(result[1:], value, rtol=3e-6, atol=1e-36)


def test_an_equal_grid_stays_bitwise() -> None:
    positions = np.random.default_rng(0).standard_normal((257, 8)).astype(np.float32)
    assert weights.interpolate_positions(positions, 257).tobytes() == positions.tobytes()


def test_a_smooth_grid_survives_224_to_336_and_back() -> None:
    y, x = np.meshgrid(*[np.linspace(-1, 1, 16)] * 2, indexing="ij")
    grid = np.stack([x, y, np.sin(2 * x) * np.cos(3 * y)], -1).reshape(256, 3).astype(np.float32)
    positions = np.concatenate([np.ones((1, 3), np.float32), grid])
    larger = weights.interpolate_positions(positions, 577)
    assert larger.shape == (577, 3)
    # Columns run along x and rows along y, as before.
    assert (np.diff(larger[1:, 0].reshape(24, 24), axis=1)[:, 1:-1] > 0).all()
    assert (np.diff(larger[1:, 1].reshape(24, 24), axis=0)[1:-1] > 0).all()
    back = weights.interpolate_positions(larger, 257)
    np.testing.assert_allclose(back, positions, atol=0.05)
    inner = (back - positions)[1:].reshape(16, 16, 3)[2:-2, 2:-2]
    assert np.abs(inner).max() < 5e-3


@pytest.mark.parametrize("shape", [(9, 32), (0, 32), (), (2, 5, 32), (17, 31), (17,)])
def test_positions_that_are_no_grid_are_refused(
    write: Callable[..., Path], tensors: dict[str, np.ndarray], shape: tuple[int, ...]
) -> None:
    message = refusal(write(tensors | {POSITION: np.zeros(shape, np.float32)}))
    assert f"{POSITION} is {list(shape)}" in message


# What does not fit


def test_every_fault_is_in_one_message(
    write: Callable[..., Path], tensors: dict[str, np.ndarray]
) -> None:
    found = {k: v for k, v in tensors.items() if k != "visual_projection.weight"}
    found |= {
        "text_model.final_layer_norm.bias": np.zeros(3, np.float32),
        "vision_model.encoder.layers.1.mlp.fc1.weight": np.zeros((32, 64), np.float32),
        "vision_model.pre_layrnorm.bias": np.zeros(32, np.int8),
        "vision_model.head.weight": np.zeros(2, np.float32),
        "text_model.embeddings.position_ids": np.arange(12)[None],
    }
    found |= {
        key.replace("layers.2.", "layers.3."): value
        for key, value in tensors.items()
        if key.startswith("text_model.encoder.layers.2.mlp")
    }
    folder = write(found)
    message = refusal(folder)
    assert message.startswith(str(folder))
    for fault in (
        "visual_projection.weight is missing",
        "text_model.final_layer_norm.bias is [3], the model wants [16]",
        "vision_model.encoder.layers.1.mlp.fc1.weight is [32, 64], the model wants [64, 32]",
        "vision_model.pre_layrnorm.bias is of I8",
        "vision_model.head.weight has no place in the model",
        "text_model.encoder.layers.3.mlp.fc1.weight is of a layer beyond the model",
        "text_model.encoder.layers.3.mlp.fc2.bias is of a layer beyond the model",
    ):
        assert fault in message, fault
    assert message.count(";") == 9, "eight faults and a remedy"
    assert "position_ids" not in message


def test_any_missing_key_is_named(
    write: Callable[..., Path], tensors: dict[str, np.ndarray]
) -> None:
    for key in tensors:
        message = refusal(write({k: v for k, v in tensors.items() if k != key}))
        assert f": {key} is missing;" in message


def test_a_shallower_checkpoint_is_told_by_its_layers(
    write: Callable[..., Path], tensors: dict[str, np.ndarray]
) -> None:
    found = {k: v for k, v in tensors.items() if ".layers.1." not in k and ".layers.2." not in k}
    message = refusal(write(found))
    assert "text_model.encoder.layers.1-2.mlp.fc1.weight is missing" in message
    assert "vision_model.encoder.layers.1.mlp.fc1.weight is missing" in message


def test_a_wild_number_of_layers_ends_in_a_message(write: Callable[..., Path]) -> None:
    layers = 2**20
    shapes = {
        path: jax.ShapeDtypeStruct((layers, *shape.shape[1:]), shape.dtype)
        if "/blocks/" in path
        else shape
        for path, shape in SHAPES.items()
    }
    start = time.monotonic()
    message = refusal(write(), shapes=shapes)
    assert "text_model.encoder.layers.3-1048575.mlp.fc1.weight is missing" in message
    assert time.monotonic() - start < 30


def test_a_parameter_without_a_row_is_a_fault(write: Callable[..., Path]) -> None:
    shapes = SHAPES | {"vision/new/weight": jax.ShapeDtypeStruct((2,), np.float32)}
    assert "parameter vision/new/weight has no row in the table" in refusal(write(), shapes=shapes)


def test_pickled_weights_are_refused_with_the_remedy(write: Callable[..., Path]) -> None:
    folder = write(False)
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    message = refusal(folder)
    assert "pickled" in message
    assert "pytorch_model.bin" in message
    assert "save_pretrained" in message


def test_no_weights_at_all(write: Callable[..., Path]) -> None:
    message = refusal(write(False))
    assert "model.safetensors is missing" in message
    assert "save_pretrained" in message, "a hub id may have pickled weights only"


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 1, exclude_max=True))
def test_cut_weights_are_refused(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, np.ndarray], share: float
) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "config.json").write_text(json.dumps(clip_to_hf(CONFIG)))
    save_file(tensors, folder / "model.safetensors")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: int(share * len(whole))])
    message = refusal(folder)
    assert "model.safetensors: not a whole safetensors file" in message
    assert "download it again" in message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"", "not readable as JSON"),
        (b"{", "not readable as JSON"),
        (b"\xff\xfe", "not readable as JSON"),
        (b"[" * 200_000, "not readable as JSON"),
        (b'{"a":' * 200_000, "not readable as JSON"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "not readable as JSON"),
        (b" " * (17 << 20), "larger than 16 MiB"),
        (b"[]", "not a JSON object"),
        (b"3", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "model_type is None, not 'clip'"),
        (b'{"model_type": "siglip"}', "model_type is 'siglip', not 'clip'"),
        (b'{"model_type": ["clip"]}', "model_type is ['clip'], not 'clip'"),
        (b'{"model_type": "clip", "vision_config": [1]}', "vision_config is not an object"),
        (b'{"model_type": "vit", "qkv_bias": false}', "qkv_bias is false"),
    ],
)
def test_a_hostile_config_is_refused(write: Callable[..., Path], text: bytes, fault: str) -> None:
    folder = write()
    (folder / "config.json").write_bytes(text)
    message = refusal(folder)
    assert fault in message
    assert str(folder / "config.json") in message
    assert len(message) < 600


@pytest.mark.parametrize(
    "files",
    [
        {"a": "../model.safetensors"},
        {"a": "/etc/passwd"},
        {"a": "sub/model.safetensors"},
        {"a": ".."},
        {"a": ""},
        {"a": "config.json"},
        {"a": "pytorch_model.bin"},
        {"a": ["model.safetensors"]},
        {"a": 5},
        ["model.safetensors"],
        "model.safetensors",
        None,
    ],
)
def test_an_index_may_only_name_shards_of_its_folder(
    write: Callable[..., Path], files: Any
) -> None:
    folder = write()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    message = refusal(folder)
    assert "model.safetensors.index.json: its weight_map names something other" in message


@pytest.mark.parametrize(
    "source", ["someone/no-such-model", "a b/c", "/no/such/folder", "./nowhere", "a/b/c", "clip"]
)
def test_a_source_that_cannot_be_had_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    from huggingface_hub import constants

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    start = time.monotonic()
    message = refusal(source)
    assert message.startswith(f"{source}: ")
    assert "folder" in message
    assert time.monotonic() - start < 5
