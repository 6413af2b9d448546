"""The settings: every key is checked and read somewhere, and a workdir keeps to its config."""

from __future__ import annotations

import ast
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import config_dict

from configs.base import recipe
from data_pipeline.loading.settings import AugmentSettings, DataSettings
from jax_vlffd.clip.config import CLIPConfig, Compute, TextConfig, VisionConfig
from jax_vlffd.config import (
    InitConfig,
    LossConfig,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    TuningConfig,
)
from jax_vlffd.errors import UserError
from launch.experiment import config as configs
from tests.support import tiny

SETTINGS = (
    AugmentSettings, CLIPConfig, Compute, DataSettings, InitConfig, LossConfig, MeshConfig, ModelConfig,
    OptimConfig, RunConfig, TextConfig, TrainConfig, TuningConfig, VisionConfig,
)  # fmt: skip


def get_config() -> config_dict.ConfigDict:
    return recipe(*tiny.settings(Path("/set"), paired=True))


def changed(**values: Any) -> dict[str, Any]:
    """The config with some dotted keys changed (dots as `__`)."""
    config: dict[str, Any] = get_config().to_dict()
    for key, value in values.items():
        *groups, name = key.split("__")
        inner = config
        for group in groups:
            inner = inner[group]
        inner[name] = value
    return config


# --- every key is there for something ---


def reads(tree: ast.AST, own: set[str]) -> set[str]:
    """Attributes that a module reads, but for those that a settings class only checks of itself."""
    result = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef) and node.name == "__post_init__":
            continue
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            result.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # getattr by a name from a tuple, as the loader's fingerprint and the mesh's axes do.
            result |= {node.value} & own
        result |= reads(node, own)
    return result


@pytest.fixture(scope="module")
def read_names() -> set[str]:
    axes = {field.name for field in dataclasses.fields(MeshConfig)}
    result: set[str] = set()
    for package in ("jax_vlffd", "data_pipeline", "launch"):
        for file in (tiny.ROOT / package).rglob("*.py"):
            result |= reads(ast.parse(file.read_text()), axes)
    return result


@pytest.mark.parametrize("kind", SETTINGS)
def test_every_setting_is_read_by_something(kind: type, read_names: set[str]) -> None:
    unread = {field.name for field in dataclasses.fields(kind)} - read_names
    assert not unread


def test_every_key_of_a_recipe_is_a_field_of_one_of_these_settings() -> None:
    names = {field.name for kind in SETTINGS for field in dataclasses.fields(kind)}
    keys = {part for key in configs.flat(get_config().to_dict()) for part in key.split(".")}
    assert keys <= names


@pytest.mark.parametrize(
    "kind",
    [AugmentSettings, Compute, DataSettings, InitConfig, LossConfig, OptimConfig, TrainConfig],
)
def test_a_setting_is_explained_where_it_stands(kind: type) -> None:
    missing = [field.name for field in dataclasses.fields(kind) if field.name not in kind.__doc__]
    assert not missing


# --- from config to settings and back ---


def test_a_config_and_its_settings_say_the_same() -> None:
    run, data = configs.settings(get_config())
    assert isinstance(run, RunConfig)
    assert run.model.clip.vision.width == get_config().model.vision.width
    assert data.batch_size == get_config().data.batch_size
    assert isinstance(data, DataSettings)
    assert configs.settings(recipe(run, data)) == (run, data)


def test_one_seed_is_that_of_the_parameters_and_of_the_data() -> None:
    run, data = configs.settings(changed(seed=7))
    assert (run.seed, data.seed) == (7, 7)


def test_paths_of_sets_may_have_commas_and_at_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b", "c@home", "d@2", "e"):
        (tmp_path / name).mkdir()
    train = "a,b@0.5,c@home,c@home@3,d@2,e@2,f"
    _, data = configs.settings(changed(data__train=train, data__validation="e,a,b"))
    assert data.train == (
        ("a,b", 0.5), ("c@home", 1.0), ("c@home", 3.0), ("d@2", 1.0), ("e", 2.0), ("f", 1.0),
    )  # fmt: skip
    assert data.validation == ("e", "a,b")
    again = recipe(*configs.settings(changed(data__train="c@home,d@2"))).data.train
    assert again == "c@home@1,d@2@1"


def test_the_folders_of_a_saved_config_are_not_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a,b").mkdir()
    monkeypatch.chdir(tmp_path)
    _, data = configs.settings(changed(data__train="a,b,c@home,d@2"), saved=True)
    assert data.train == (("a", 1.0), ("b", 1.0), ("c@home", 1.0), ("d", 2.0))


def test_sets_are_listed_with_their_weights() -> None:
    _, data = configs.settings(changed(data__train="/a@0.7, /b@2,/c", data__validation="/a,/b"))
    assert data.train == (("/a", 0.7), ("/b", 2.0), ("/c", 1.0))
    assert data.validation == ("/a", "/b")
    again = recipe(*configs.settings(changed(data__train="/a@0.7,/b@2,/c"))).data.train
    assert again == "/a@0.7,/b@2,/c"


@given(st.lists(st.tuples(st.sampled_from(["/a", "b/c", "x@y"]), st.integers(1, 9)), max_size=4))
def test_a_list_of_sets_survives_the_round_trip(sets: list[tuple[str, int]]) -> None:
    run, data = configs.settings(get_config())
    data = dataclasses.replace(data, train=tuple((f, float(w)) for f, w in sets))
    assert configs.settings(recipe(run, data))[1] == data


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"optimm": {}}, "config has no key 'optimm'; did you mean 'optim'?"),
        ({"optim__learning_rat": 1}, "optim has no key 'learning_rat'; did you mean 'learning_rate'?"),
        ({"model__vision__with": 1}, "model.vision has no key 'with'; did you mean 'width'?"),
        ({"model__fusion_head": 1}, "model has no key 'fusion_head'; did you mean 'fusion_heads'?"),
        ({"model__compute": {"lora_rank": 64}}, "model has no key 'compute'"),
        ({"model__clip": {}}, "model has no key 'clip'"),
        ({"data__augment__flp": 1}, "data.augment has no key 'flp'; did you mean 'flip'?"),
        ({"mesh__zzzz": 1}, "mesh has no key 'zzzz'; it has data, fsdp, tensor"),
        ({"optim__learning_rate": "fast"}, "optim.learning_rate is 'fast': it must be a valid number"),
        ({"optim__learning_rate": True}, "optim.learning_rate is True: it must be a valid number"),
        ({"optim__learning_rate": float("nan")}, "optim.learning_rate is nan: it must be a finite number"),
        ({"optim__clip": float("inf")}, "optim.clip is inf: it must be a finite number"),
        ({"train__keep": 1.5}, "train.keep is 1.5: it must be a valid integer"),
        ({"train__keep": 2.0}, "train.keep is 2.0: it must be a valid integer"),
        ({"train__tensorboard": 1}, "train.tensorboard is 1: it must be a valid boolean"),
        ({"train__tensorboard": "no"}, "train.tensorboard is 'no': it must be a valid boolean"),
        ({"seed": -1}, "seed is -1: it must be greater than or equal to 0"),
        ({"model__image_mean": (1.0, 0.0)}, "model.image_mean.2 is missing"),
        ({"mesh__fsdp": -2}, "mesh.fsdp is -2: it must be greater than or equal to -1"),
        ({"train__keep": 0}, "train.keep is 0: it must be greater than 0"),
        ({"optim__weight_decay": -1}, "optim.weight_decay is -1: it must be greater than or equal to 0"),
        ({"optim__learning_rate": 0}, "optim.learning_rate is 0: it must be greater than 0"),
        ({"optim__b2": 1.0}, "optim.b2 is 1.0: it must be less than 1"),
        ({"optim__schedule": "linear"}, "optim.schedule is 'linear': it must be 'cosine' or 'constant'"),
        ({"loss__targets": "hard"}, "loss.targets is 'hard': it must be 'multi_positive'"),
        ({"loss__fusion": -1}, "loss.fusion is -1: it must be greater than or equal to 0"),
        ({"loss": {"image": 0, "alignment": 0, "fusion": 0}}, "one must be above 0"),
        ({"loss__image": 0}, "whose head would stay untrained"),
        ({"tuning__text": "half"}, "tuning.text is 'half': it must be 'full', 'layernorm', 'lora' or 'frozen'"),
        ({"tuning__vision": "lora"}, "tuning 'lora' wants compute.lora_rank"),
        ({"compute__lora_rank": 4}, "lora_rank is 4, yet no tower is tuned by adapters"),
        ({"compute__dtype": "float16"}, "compute.dtype is 'float16': it must be 'float32' or 'bfloat16'"),
        ({"compute__remat": "some"}, "compute.remat is 'some': it must be 'none', 'dots' or 'full'"),
        ({"model__fusion_heads": 7}, "model.fusion_heads is 7: it must divide"),
        ({"model__vision__heads": 5}, "does not divide into 5 heads"),
        ({"model__vision__image_size": 63}, "image_size 63 is not a multiple of patch_size 8"),
        ({"model__vision__width": -4}, "model.vision.width is -4: it must be greater than or equal to 1"),
        ({"model__image_std": (1.0, 0.0, 1.0)}, "model.image_std.1 is 0.0: it must be greater than 0"),
        ({"init": {"clip": "a", "vit": "b", "resume": ""}}, "init.clip and init.vit are both set"),
        ({"data__seed": 3}, "data has no key 'seed'"),
        ({"data__train": ["/a"]}, "data.train is ['/a']: give names separated by commas"),
        ({"data__methods": None}, "data.methods is None: give names"),
        ({"data__train": "/a@much"}, "data.train: '/a@much' does not end in a weight, as DIR@0.5"),
        ({"data__train": "/a@-1"}, "data.train.0.1 is -1.0: it must be greater than 0"),
        ({"data__batch_size": 7}, "data.paired needs an even one: take 6 or 8"),
        ({"data__balance": 0.5}, "data.balance cannot be set with data.paired"),
        ({"data__fused_caption": "none"}, "it must be 'full', 'no_verdict' or 'shuffled'"),
        ({"data__augment__flip": 1.5}, "data.augment.flip is 1.5: it must be less than or equal to 1"),
        ({"data__augment__jpeg_quality": (90, 40)}, "it must be (low, high)"),
    ],
)  # fmt: skip
def test_a_wrong_key_or_value_is_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        configs.settings(changed(**values))
    assert message in str(caught.value)


# --- a workdir keeps to its config ---


def saved(tmp_path: Path, **values: Any) -> dict[str, Any]:
    config = json.loads(json.dumps(changed(**values)))
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "versions": {}}))
    return config


@pytest.mark.parametrize(
    "free",
    [
        {"mesh__fsdp": 4},
        {"init__clip": "elsewhere"},
        {"compute__remat": "full"},
        {"compute__unroll": 2},
        {"compute__pad_to_multiple_of": 0},
        {"compute__attention": "cudnn"},
        {"data__workers": 3},
        {"data__prefetch": 9},
        {"data__max_bad_share": 0.5},
        {"train__log_every": 1},
        {"train__keep": 5},
        {"train__tensorboard": False},
    ],
    ids=lambda values: next(iter(values)),
)
def test_what_only_changes_the_computing_may_differ(free: dict[str, Any], tmp_path: Path) -> None:
    saved(tmp_path)
    configs.check_same(tmp_path, changed(**free))


def test_every_free_key_is_a_key() -> None:
    keys = configs.flat(get_config().to_dict())
    for free in configs.FREE:
        assert any(key == free or (free.endswith(".") and key.startswith(free)) for key in keys), (
            free
        )


def test_what_changes_the_result_may_not_and_is_named(tmp_path: Path) -> None:
    saved(tmp_path)
    with pytest.raises(UserError) as caught:
        configs.check_same(tmp_path, changed(optim__learning_rate=0.5, seed=9, data__workers=3))
    message = str(caught.value)
    assert "optim.learning_rate 0.001 -> 0.5" in message
    assert "seed 0 -> 9" in message
    assert "workers" not in message
    assert str(tmp_path) in message


def test_many_differences_are_counted(tmp_path: Path) -> None:
    saved(tmp_path)
    values = {f"data__augment__{name}": 0.01 for name in ("flip", "resize_crop", "jpeg", "color")}
    values |= {"seed": 5, "optim__clip": 3.0, "optim__eps": 1e-3}
    with pytest.raises(UserError, match=r"and 2 more\); use another --workdir"):
        configs.check_same(tmp_path, changed(**values))


def test_tuples_and_lists_are_the_same_in_a_file(tmp_path: Path) -> None:
    saved(tmp_path, model__image_mean=(0.1, 0.2, 0.3))
    configs.check_same(tmp_path, changed(model__image_mean=(0.1, 0.2, 0.3)))
    run, _ = configs.settings(configs.read_saved(tmp_path) or {})
    assert list(run.model.image_mean) == [0.1, 0.2, 0.3]


def test_a_run_of_a_version_without_resizings_goes_on_with_its_own(tmp_path: Path) -> None:
    values = changed()
    run, _ = configs.settings(values)
    assert run.model.resize == "antialiased"
    saved(tmp_path)
    assert configs.with_saved_resize(run, values, tmp_path) == (run, values)
    older = json.loads((tmp_path / "config.json").read_text())
    del older["config"]["model"]["resize"]
    (tmp_path / "config.json").write_text(json.dumps(older))
    configs.check_same(tmp_path, values)
    kept, values = configs.with_saved_resize(run, values, tmp_path)
    assert kept.model.resize == values["model"]["resize"] == "truncated"
    configs.check_same(tmp_path, values)


def test_a_workdir_of_the_mode_once_called_linear_goes_on_frozen(tmp_path: Path) -> None:
    saved(tmp_path, tuning__vision="linear")
    configs.check_same(tmp_path, changed(tuning__vision="frozen"))
    run, _ = configs.settings(configs.read_saved(tmp_path) or {})
    assert (run.tuning.vision, run.tuning.text) == ("frozen", "full")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"versions": {}}', "\x00"])
def test_a_broken_config_of_a_workdir_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        UserError, match=r"config.json(: not a run's config| is not JSON) .*; use another w"
    ):
        configs.read_saved(tmp_path)


def test_a_new_workdir_takes_any_config(tmp_path: Path) -> None:
    assert configs.read_saved(tmp_path / "new") is None
    configs.check_same(tmp_path / "new", changed())


# --- what was added or left out since a workdir was made ---


def without(values: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A config without some dotted keys, as another version wrote it."""
    values = json.loads(json.dumps(values))
    for key in keys:
        *groups, name = key.split(".")
        inner = values
        for group in groups:
            inner = inner[group]
        del inner[name]
    return values


ADDED = ("optim.final_share", "compute.lora_alpha", "data.augment.cutout", "seed", "loss.local")


@pytest.mark.parametrize("key", [*ADDED, "data.augment.cutout_side", "data.methods"])
def test_a_key_that_one_side_lacks_has_its_default(key: str, tmp_path: Path) -> None:
    ours = changed(data__augment__cutout=0.1)
    for theirs, mine in ((without(ours, key), ours), (ours, without(ours, key))):
        (tmp_path / "config.json").write_text(json.dumps({"config": theirs}))
        configs.check_same(tmp_path, mine)
        configs.settings(theirs)


def test_a_key_that_one_side_lacks_is_not_another_value_than_its_default(tmp_path: Path) -> None:
    ours = changed(optim__final_share=0.5)
    for theirs, mine, shown in (
        (without(ours, "optim.final_share"), ours, "0.0 -> 0.5"),
        (ours, without(ours, "optim.final_share"), "0.5 -> 0.0"),
    ):
        (tmp_path / "config.json").write_text(json.dumps({"config": theirs}))
        with pytest.raises(UserError, match=f"optim.final_share {shown}"):
            configs.check_same(tmp_path, mine)


def test_a_key_of_a_later_version_is_named(tmp_path: Path) -> None:
    ours = changed()
    theirs = json.loads(json.dumps(ours)) | {"later": {"key": 1}}
    (tmp_path / "config.json").write_text(json.dumps({"config": theirs}))
    with pytest.raises(UserError, match=r"later\.key 1 -> None"):
        configs.check_same(tmp_path, ours)


@pytest.mark.parametrize(
    "group", ["loss", "data", "model", "compute", "data.augment", "model.text"]
)
@pytest.mark.parametrize("value", [5, None, [1], "x"])
def test_a_value_in_place_of_a_group_is_named(group: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^{group} is .*: it must be a group of settings"):
        configs.settings(changed(**{group.replace(".", "__"): value}))
