"""The architectures' sizes, and reading them from Hugging Face's config files."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jax_vlffd import model
from jax_vlffd.clip import huggingface
from jax_vlffd.clip.config import (
    CLIPConfig,
    Compute,
    TextConfig,
    VisionConfig,
    difference,
)
from jax_vlffd.clip.huggingface_config import clip_from_hf, clip_to_hf, vit_from_hf
from jax_vlffd.config import ModelConfig
from jax_vlffd.errors import UserError

NAMES = ("b32", "b16", "l14", "l14_336", "laion_h14", "laion_bigg14")


@pytest.mark.parametrize(
    ("name", "millions"),
    # As open_clip's table of model profiles gives them.
    list(zip(NAMES, (151.28, 149.62, 427.62, 427.94, 986.11, 2539.57), strict=True)),
)
def test_parameters_are_as_many_as_published(name: str, millions: float) -> None:
    config = getattr(CLIPConfig, name)()
    _, shapes = model.graph_and_shapes(ModelConfig(config))
    count = sum(math.prod(shapes[ours].shape) for ours, _ in huggingface.CLIP_TABLE)
    assert round(count / 1e6, 2) == millions


@pytest.mark.parametrize("name", NAMES)
def test_config_files_read_back(name: str) -> None:
    config = getattr(CLIPConfig, name)()
    values = json.loads(json.dumps(clip_to_hf(config)))
    assert clip_from_hf(values) == config
    old = {
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "text_config": None,
        "text_config_dict": values["text_config"],
        "vision_config": {},
        "vision_config_dict": values["vision_config"],
    }
    assert clip_from_hf(old) == config


def test_what_a_file_leaves_out_is_what_transformers_assumes() -> None:
    transformers = pytest.importorskip("transformers")
    assert clip_from_hf({"model_type": "clip"}) == clip_from_hf(transformers.CLIPConfig().to_dict())
    assert vit_from_hf({"model_type": "vit"}) == vit_from_hf(transformers.ViTConfig().to_dict())


@pytest.mark.parametrize("name", NAMES)
def test_transformers_reads_our_files(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(CLIPConfig, name)()
    theirs = transformers.CLIPConfig(**clip_to_hf(config))
    assert clip_from_hf(theirs.to_dict()) == config
    assert theirs.text_config.eos_token_id == 49407


def test_old_files_end_at_the_last_id() -> None:
    values = {"model_type": "clip", "text_config": {"eos_token_id": 2, "vocab_size": 1000}}
    assert clip_from_hf(values).text.eos_id == 999


def test_a_plain_vit_has_no_clip_file() -> None:
    with pytest.raises(UserError, match="plain ViT"):
        clip_to_hf(CLIPConfig.vit_tiny())


def test_a_difference_names_the_field_and_both_values() -> None:
    vision = CLIPConfig.b16().vision
    assert difference(vision, dataclasses.replace(vision, image_size=384)) == []
    assert difference(vision, CLIPConfig.b32().vision) == ["patch_size 16 != 32"]


VISION = CLIPConfig.b16().vision
TEXT = CLIPConfig.b16().text


@pytest.mark.parametrize(
    ("config", "changes", "fault"),
    [
        (VISION, {"width": "768"}, "model.vision.width is '768': it must be a valid integer"),
        (VISION, {"width": 768.0}, "model.vision.width is 768.0: it must be a valid integer"),
        (VISION, {"width": None}, "model.vision.width is None"),
        (VISION, {"layers": 0}, "model.vision.layers is 0: it must be greater than or equal to 1"),
        (VISION, {"layers": True}, "model.vision.layers is True: it must be a valid integer"),
        (VISION, {"layers": 10**12}, "model.vision.layers is 1000000000000: it must be less than"),
        (VISION, {"heads": 7}, "model.vision.width 768 does not divide into 7 heads"),
        (VISION, {"activation": "relu"}, "activation is 'relu': it must be 'quick_gelu', 'gelu'"),
        (VISION, {"activation": ["gelu"]}, "activation is ['gelu']: it must be 'quick_gelu'"),
        (VISION, {"image_size": [224, 224]}, "model.vision.image_size is [224, 224]"),
        (VISION, {"image_size": 225}, "image_size 225 is not a multiple of patch_size 16"),
        (VISION, {"layernorm_eps": float("nan")}, "layernorm_eps is nan: it must be a finite"),
        (VISION, {"layernorm_eps": 0}, "layernorm_eps is 0: it must be greater than 0"),
        (VISION, {"patch_bias": 1}, "model.vision.patch_bias is 1: it must be a valid boolean"),
        (TEXT, {"eos_id": 49408}, "eos_id 49408 is not in a vocabulary of 49408"),
        (TEXT, {"eos_id": -1}, "model.text.eos_id is -1"),
        (TEXT, {"eos_id": [1, 2]}, "model.text.eos_id is [1, 2]"),
        (TEXT, {"context_length": 0}, "model.text.context_length is 0"),
        (CLIPConfig.b16(), {"embed_dim": -1}, "model.embed_dim is -1"),
        (CLIPConfig.b16(), {"logit_scale_init": float("inf")}, "model.logit_scale_init is inf"),
        (Compute(), {"dtype": "float16"}, "compute.dtype is 'float16': it must be 'float32' or"),
        (Compute(), {"remat": "some"}, "compute.remat is 'some': it must be 'none', 'dots' or"),
        (Compute(), {"unroll": 0}, "compute.unroll is 0"),
        (Compute(), {"pad_to_multiple_of": -1}, "compute.pad_to_multiple_of is -1"),
        (Compute(), {"attention": "flash"}, "compute.attention is 'flash': it must be 'xla' or"),
        (Compute(), {"attention": "cudnn"}, "wants compute.dtype 'bfloat16'"),
    ],
)
def test_values_out_of_range_are_errors(config: Any, changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(UserError) as caught:
        dataclasses.replace(config, **changes)
    assert fault in str(caught.value)


def test_all_wrong_fields_are_in_one_error() -> None:
    with pytest.raises(UserError, match=r"width is 'a'.*heads is -1.*patch_size is \[\]"):
        VisionConfig("a", 1, -1, 4, patch_size=[])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (VISION, {"image_size": 2**20, "patch_size": 1}, "image_size is 1048576: it must be less"),
        (VISION, {"image_size": 8192, "patch_size": 2}, "16,777,217 tokens"),
        (VISION, {"width": 2**20, "heads": 16}, "describes a tower of"),
        (VISION, {"mlp_width": 2**20, "layers": 2**20}, "describes a tower of"),
        (TEXT, {"context_length": 2**20}, "1,048,576 tokens"),
        (TEXT, {"vocab_size": 2**20, "width": 2**16}, "describes a tower of"),
        (CLIPConfig.b16(), {"embed_dim": 2**20}, "model.embed_dim is 1048576"),
    ],
)
def test_no_config_asks_for_more_memory_than_there_is(
    config: Any, changes: dict[str, Any], message: str
) -> None:
    """A hub's config.json is a stranger's; its sizes are refused before anything is allocated."""
    with pytest.raises(UserError, match=message):
        dataclasses.replace(config, **changes)


def test_an_eos_of_zero_is_a_word_like_any() -> None:
    assert TextConfig(8, 1, 1, 8, vocab_size=4, eos_id=0).eos_id == 0


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    [*clip_to_hf(CLIPConfig.b16())["vision_config"], "vocab_size", "eos_token_id"]
)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(
    top=st.dictionaries(
        st.sampled_from(
            ["projection_dim", "logit_scale_init_value", "text_config", "vision_config_dict"]
        ),
        ANY_JSON,
    ),
    vision=st.dictionaries(FIELDS, ANY_JSON),
    text=st.dictionaries(FIELDS, ANY_JSON),
)
def test_any_json_reads_or_is_refused(
    top: dict[str, Any], vision: dict[str, Any], text: dict[str, Any]
) -> None:
    for values in ({"vision_config": vision, "text_config": text, **top}, vision):
        for read in (clip_from_hf, vit_from_hf):
            try:
                read({**values, "model_type": "clip" if read is clip_from_hf else "vit"})
            except UserError as error:
                assert "\n" not in str(error).replace("\\n", "")  # noqa: PT017 - either is right
