"""What is said of Hugging Face files that do not fit."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from jax_vlffd.clip.huggingface_config import clip_to_hf
from tests.support.hf_files import CONFIG, SHAPES, refusal, writer
from tests.support.work import calls


def test_every_fault_is_in_one_message(
    write: Callable[..., Path], tensors: dict[str, np.ndarray]
) -> None:
    result = {k: v for k, v in tensors.items() if k != "visual_projection.weight"}
    result |= {
        "text_model.final_layer_norm.bias": np.zeros(3, np.float32),
        "vision_model.encoder.layers.1.mlp.fc1.weight": np.zeros((32, 64), np.float32),
        "vision_model.pre_layrnorm.bias": np.zeros(32, np.int8),
        "vision_model.head.weight": np.zeros(2, np.float32),
        "text_model.embeddings.position_ids": np.arange(12)[None],
    }
    result |= {
        key.replace("layers.2.", "layers.3."): value
        for key, value in tensors.items()
        if key.startswith("text_model.encoder.layers.2.mlp")
    }
    folder = write(result)
    message = refusal(folder)
    assert message.startswith(str(folder))
    for fault in (
        "visual_projection.weight is missing",
        "text_model.final_layer_norm.bias is [3], the model wants [16]",
        "vision_model.encoder.layers.1.mlp.fc1.weight is [32, 64], the model wants [64, 32]",
        "vision_model.pre_layrnorm.bias is of I8",
        "vision_model.head.weight is not a parameter of the model",
        "text_model.encoder.layers.3.mlp.fc1.weight is of a layer beyond the model",
        "text_model.encoder.layers.3.mlp.fc2.bias is of a layer beyond the model",
    ):
        assert fault in message, fault
    assert message.count(";") == 9, "eight faults and a remedy"
    assert "position_ids" not in message


@pytest.mark.parametrize(
    "wrapper", ["module.", "clip.", "_orig_mod.", "model.", "_forward_module."]
)
def test_a_wrapper_that_renamed_every_key_is_named(
    write: Callable[..., Path], tensors: dict[str, np.ndarray], wrapper: str
) -> None:
    message = refusal(write({f"{wrapper}{key}": value for key, value in tensors.items()}))
    assert f"every weight's name begins with {wrapper!r}" in message
    assert "rename the keys" in message


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@settings(max_examples=5)
@given(st.data())
def test_values_that_are_not_finite_are_named(
    value: float, tensors: dict[str, np.ndarray], tmp_path_factory: Any, data: st.DataObject
) -> None:
    key = data.draw(st.sampled_from(sorted(tensors)))
    broken = np.array(tensors[key])
    broken.flat[data.draw(st.integers(0, broken.size - 1))] = value
    folder = tmp_path_factory.mktemp("clip")
    message = refusal(writer(folder, tensors)({**tensors, key: broken}))
    assert f"{key} holds values that are not finite" in message


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["config.json", "model.fp16.safetensors"], "has model.fp16.safetensors and no model.safetensors"),
        (["adapter_config.json", "adapter_model.safetensors"], "holds adapters of PEFT alone; merge them"),
        (["open_clip_config.json", "open_clip_model.safetensors"], "is a checkpoint of open_clip; give"),
        (["open_clip_pytorch_model.bin"], "is a checkpoint of open_clip; give"),
    ],
)  # fmt: skip
def test_a_folder_of_another_format_is_named(
    names: list[str], message: str, write: Callable[..., Path]
) -> None:
    folder = write(False)
    whole = (folder / "config.json").read_bytes()
    (folder / "config.json").unlink()
    for name in names:
        (folder / name).write_bytes(whole if name == "config.json" else b"{}")
    assert message in refusal(folder)


def test_any_missing_key_is_named(
    write: Callable[..., Path], tensors: dict[str, np.ndarray]
) -> None:
    for key in tensors:
        message = refusal(write({k: v for k, v in tensors.items() if k != key}))
        assert f": {key} is missing;" in message


def test_a_shallower_checkpoint_is_reported_by_its_layers(
    write: Callable[..., Path], tensors: dict[str, np.ndarray]
) -> None:
    result = {k: v for k, v in tensors.items() if ".layers.1." not in k and ".layers.2." not in k}
    message = refusal(write(result))
    assert "text_model.encoder.layers.1-2.mlp.fc1.weight is missing" in message
    assert "vision_model.encoder.layers.1.mlp.fc1.weight is missing" in message


def test_a_wild_number_of_layers_ends_in_a_message(write: Callable[..., Path]) -> None:
    def error(layers: int) -> str:
        shapes = {
            path: jax.ShapeDtypeStruct((layers, *shape.shape[1:]), shape.dtype)
            if "/blocks/" in path
            else shape
            for path, shape in SHAPES.items()
        }
        return refusal(write(), shapes=shapes)

    work = [calls(error, layers) for layers in (2**10, 2**11)]
    assert work[1] < 3 * work[0]  # not the square
    assert "text_model.encoder.layers.3-131071.mlp.fc1.weight is missing" in error(2**17)


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
        (b"", "is not JSON"),
        (b"{", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"[" * 200_000, "is not JSON"),
        (b'{"a":' * 200_000, "is not JSON"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "is not JSON"),
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
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: pytest.fail("the network was asked"))
    message = refusal(source)
    assert message.startswith(f"{source}: ")
    assert "folder" in message
