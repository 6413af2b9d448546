"""Hugging Face files in, the same files out, onto devices and to another image size."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jax_vlffd.clip import huggingface
from jax_vlffd.config import MeshConfig
from jax_vlffd.training import parameter_rules
from jax_vlffd.training.sharding import make_mesh
from tests.support.hf_files import CONFIG, POSITION, SHAPES, load, refusal, shapes_of


def test_files_come_back_bitwise(
    write: Callable[..., Path], tensors: dict[str, np.ndarray], tmp_path: Path
) -> None:
    loaded = load(write())
    huggingface.save_hf(tmp_path / "ours", {k: np.asarray(v) for k, v in loaded.items()}, CONFIG)
    again = load_file(tmp_path / "ours" / "model.safetensors")
    assert again.keys() == tensors.keys()
    for key, value in tensors.items():
        assert (again[key].dtype, again[key].shape) == (value.dtype, value.shape), key
        assert again[key].tobytes() == value.tobytes(), key
    assert huggingface.open_checkpoint(str(tmp_path / "ours")).clip == CONFIG


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
    shardings = parameter_rules.parameter_shardings(
        SHAPES, parameter_rules.match_rules(SHAPES), devices
    )
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

    safe_open = huggingface.safe_open
    monkeypatch.setattr(huggingface, "safe_open", File)
    devices = make_mesh(MeshConfig(1, 4, 2))
    loaded = load(
        write(),
        shardings=parameter_rules.parameter_shardings(
            SHAPES, parameter_rules.match_rules(SHAPES), devices
        ),
    )
    # Eight devices hold eight different slices: together they are the tensor once, not eight times.
    table = dict(huggingface.CLIP_TABLE)
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
    actual = parameters["vision/position_embedding"]
    assert loaded["vision/position_embedding"].shape == (37, 32)
    np.testing.assert_array_equal(
        loaded["vision/position_embedding"], huggingface.interpolate_positions(actual, 37)
    )
    for path in SHAPES.keys() - {"vision/position_embedding"}:
        np.testing.assert_array_equal(loaded[path], parameters[path])


@settings(deadline=None, max_examples=15)
@given(old=st.integers(1, 24), new=st.integers(1, 24), value=st.floats(-3, 3, width=32))
def test_a_constant_grid_stays_constant(old: int, new: int, value: float) -> None:
    positions = np.full((old * old + 1, 2), value, np.float32)
    positions[0] = 7
    result = huggingface.interpolate_positions(positions, new * new + 1)
    assert result.shape == (new * new + 1, 2)
    np.testing.assert_array_equal(result[0], 7)
    # Sixteen fp32 products, whose weights sum to one but for rounding; the least numbers lose bits.
    np.testing.assert_allclose(result[1:], value, rtol=3e-6, atol=1e-36)


def test_an_equal_grid_stays_bitwise() -> None:
    positions = np.random.default_rng(0).standard_normal((257, 8)).astype(np.float32)
    assert huggingface.interpolate_positions(positions, 257).tobytes() == positions.tobytes()


def test_a_smooth_grid_survives_224_to_336_and_back() -> None:
    y, x = np.meshgrid(*[np.linspace(-1, 1, 16)] * 2, indexing="ij")
    grid = np.stack([x, y, np.sin(2 * x) * np.cos(3 * y)], -1).reshape(256, 3).astype(np.float32)
    positions = np.concatenate([np.ones((1, 3), np.float32), grid])
    larger = huggingface.interpolate_positions(positions, 577)
    assert larger.shape == (577, 3)
    # Columns run along x and rows along y, as before.
    assert (np.diff(larger[1:, 0].reshape(24, 24), axis=1)[:, 1:-1] > 0).all()
    assert (np.diff(larger[1:, 1].reshape(24, 24), axis=0)[1:-1] > 0).all()
    back = huggingface.interpolate_positions(larger, 257)
    np.testing.assert_allclose(back, positions, atol=0.05)
    inner = (back - positions)[1:].reshape(16, 16, 3)[2:-2, 2:-2]
    assert np.abs(inner).max() < 5e-3


@pytest.mark.parametrize("shape", [(9, 32), (0, 32), (), (2, 5, 32), (17, 31), (17,)])
def test_positions_that_are_no_grid_are_refused(
    write: Callable[..., Path], tensors: dict[str, np.ndarray], shape: tuple[int, ...]
) -> None:
    message = refusal(write(tensors | {POSITION: np.zeros(shape, np.float32)}))
    assert f"{POSITION} is {list(shape)}" in message
