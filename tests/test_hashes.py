"""A digest that decides whether something is the same moves with every setting that decides the result."""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from configs.base import recipe
from data_pipeline.fftg.annotator import AnnotationTask, Annotator
from data_pipeline.fftg.measure.thresholds import DEFAULT
from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd.errors import UserError
from jax_vlffd.inference import trained
from jax_vlffd.settings import build
from launch.experiment import config as configs
from launch.sweeps import plan
from tests.support import tiny
from tests.support.loading import data_settings, make_loader

#: Settings that leave the digest as it is, and why.
SHOWN_BY_THE_ARRAYS = {
    "width", "depth", "layers", "mlp_width", "image_size", "patch_size", "patch_bias", "pre_layernorm",
    "embed_dim", "lora_rank",
}  # fmt: skip
NOT_OF_THE_IMAGE_BRANCH = {"text", "fusion_heads", "fusion_mlp_width", "logit_scale_init"}
#: How training was computed; a detector is computed as every device can, see `on_any_device`.
OF_TRAINING = {"remat", "unroll", "attention", "pad_to_multiple_of"}
#: The order of the examples does not depend on them; a run's config, compared as a whole, holds them.
NOT_OF_THE_ORDER = {
    "validation", "tokenizer", "workers", "prefetch", "captions", "fused_caption", "max_bad_share", "augment",
}  # fmt: skip


def another(value: Any, kind: Any = None) -> Any:
    """A value of the same type that differs; of a Literal the next."""
    options = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
    if options:
        return options[(options.index(value) + 1) % len(options)]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, tuple | list) and value:
        return type(value)([another(value[0]), *value[1:]])
    return {"": "other", None: 0.25, (): ("other",)}.get(
        tuple(value) if isinstance(value, list) else value, f"{value}2"
    )


def replaced(settings: Any, name: str, value: Any) -> Any:
    """A copy with another value, which need not fit the others."""
    copy = object.__new__(type(settings))
    for field in dataclasses.fields(settings):
        object.__setattr__(copy, field.name, getattr(settings, field.name))
    object.__setattr__(copy, name, value)
    return copy


def variants(settings: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each setting of a group and of its inner groups, with a copy in which it alone differs."""
    hints = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, here = getattr(settings, field.name), (*path, field.name)
        if dataclasses.is_dataclass(value):
            for inner, changed in variants(value, here):
                yield inner, replaced(settings, field.name, changed)
        else:
            yield here, replaced(settings, field.name, another(value, hints[field.name]))


def test_an_annotations_key_follows_every_threshold_option_column_and_file(tmp_path: Path) -> None:
    for name in ("real.png", "fake.png", "mask.png"):
        (tmp_path / name).write_text(name)
    task = AnnotationTask(
        "a", tmp_path / "real.png", tmp_path / "fake.png", tmp_path / "mask.png", {"method": "m"}
    )

    def key(changed: AnnotationTask = task, **options: Any) -> str:
        line = Annotator(root=tmp_path, **options).annotate(changed)
        assert line is not None
        return str(line["key"])

    keys = {(): key()}
    for path, settings in variants(DEFAULT):
        keys[path] = key(settings=settings)
    keys["detector",] = key(detector="mediapipe")
    keys["wordings",] = key(wordings=4)
    keys["masks",] = key(masks=tmp_path / "masks")
    keys["columns",] = key(dataclasses.replace(task, columns={"method": "n"}))
    keys["id",] = key(dataclasses.replace(task, id="b"))
    for name in ("real.png", "fake.png", "mask.png", "fake.npy"):
        (tmp_path / name).write_text("changed")
        keys[name,] = key()
    assert len(set(keys.values())) == len(keys)


def test_a_run_goes_on_only_with_the_settings_of_its_config_or_free_ones(tmp_path: Path) -> None:
    config = json.loads(recipe(*tiny.settings(Path("/set"), paired=True)).to_json())
    (tmp_path / "config.json").write_text(json.dumps({"config": config}))
    configs.check_same(tmp_path, config)
    keys = configs.flat(config)
    for name, value in keys.items():
        changed = json.loads(json.dumps(config))
        *groups, last = name.split(".")
        group = changed
        for part in groups:
            group = group[part]
        group[last] = another(value)
        if name.startswith(configs.FREE):
            configs.check_same(tmp_path, changed)
        else:
            with pytest.raises(UserError, match=name.replace(".", r"\.")):
                configs.check_same(tmp_path, changed)
    # A name of FREE that is not a setting would be a slip.
    assert all(any(key.startswith(free) for key in keys) for free in configs.FREE)


def test_a_sweeps_run_is_named_by_every_setting_it_changes() -> None:
    config = json.loads(recipe(*tiny.settings(Path("/set"), paired=True)).to_json())
    values = configs.flat(config)
    names = [
        plan.SweepRun(0, {key: change}, {key: str(change)}, config).id
        for key, value in values.items()
        for change in (value, another(value))
    ]
    assert len(set(names)) == len(names)


def test_a_detectors_hash_follows_all_of_its_architecture(workdir: Path) -> None:
    opened = trained.open_trained(workdir)
    moved, stayed = set(), set()
    for path, model in variants(opened.model):
        changed = dataclasses.replace(opened, model=model).hash() != opened.hash()
        (moved if changed else stayed).add(path)
    left = {path for path in stayed if NOT_OF_THE_IMAGE_BRANCH.isdisjoint(path)}
    assert {path[-1] for path in left} - {"lora_alpha"} <= SHOWN_BY_THE_ARRAYS | OF_TRAINING
    # It scales adapters, which this model has not.
    compute = build(type(opened.model.compute), {"lora_rank": 2}, "compute")
    adapted = dataclasses.replace(opened, model=dataclasses.replace(opened.model, compute=compute))
    other = dataclasses.replace(
        opened,
        model=dataclasses.replace(opened.model, compute=replaced(compute, "lora_alpha", 33.0)),
    )
    assert adapted.hash() != other.hash()
    assert {path[-1] for path in moved} >= {"heads", "activation", "image_mean", "resize", "dtype"}


def test_the_order_of_the_data_follows_every_setting_that_decides_it(
    packed: Path, tokenizer: Tokenizer
) -> None:
    settings = data_settings(packed)
    first = make_loader(tokenizer, settings).fingerprint
    different = {
        "train": (*settings.train, (str(packed), 2.0)), "batch_size": 4, "seed": 1, "balance": 0.25,
        "paired": True, "methods": ("Deepfakes",),
    }  # fmt: skip
    assert {field.name for field in dataclasses.fields(settings)} == NOT_OF_THE_ORDER | set(
        different
    )
    for name, value in different.items():
        changed = dataclasses.replace(settings, **{name: value})
        assert make_loader(tokenizer, changed).fingerprint != first, name
