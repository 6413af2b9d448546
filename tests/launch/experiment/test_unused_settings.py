"""A setting that another one keeps from having any effect is refused where it was chosen."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from jax_vlffd.errors import UserError
from launch.experiment import config as configs
from launch.sweeps import plan
from tests.support import tiny

RECIPES = sorted(
    file.stem
    for file in (tiny.ROOT / "configs").glob("*.py")
    if re.search(r"^(def )?get_config\b", file.read_text(), re.MULTILINE)
)
IMAGE_ALONE = {"loss.alignment": 0.0, "loss.fusion": 0.0}


def check(overrides: dict[str, Any], name: str = "ffpp_crops", chosen: bool = True) -> None:
    """What the command does with a recipe and `--config.KEY=VALUE` flags."""
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(overrides)
    configs.check_effect(config.to_dict(), overrides if chosen else ())


UNUSED: list[tuple[str, Any, dict[str, Any]]] = [
    ("loss.targets", "sigmoid", {"loss.alignment": 0.0}),
    ("model.logit_scale_init", 1.0, {"loss.alignment": 0.0}),
    ("model.logit_scale_init", 1.0, {"init.clip": "folder"}),
    ("model.fusion_heads", 6, {"loss.fusion": 0.0}),
    ("model.fusion_mlp_width", 64, {"loss.fusion": 0.0}),
    ("data.fused_caption", "shuffled", {"loss.fusion": 0.0}),
    ("tuning.text", "layernorm", IMAGE_ALONE),
    ("optim.text_scale", 2.0, IMAGE_ALONE),
    ("optim.text_scale", 2.0, {"tuning.text": "frozen"}),
    ("optim.vision_scale", 2.0, {"tuning.vision": "frozen"}),
    ("optim.final_share", 0.1, {"optim.schedule": "constant"}),
    ("compute.pad_to_multiple_of", 8, IMAGE_ALONE),
    ("compute.lora_alpha", 8.0, {}),
    ("data.captions", "raw", IMAGE_ALONE),
    ("init.vit", "folder", {"init.resume": "workdir"}),
    ("data.augment.resize_crop_side", (0.5, 1.0), {"data.augment.resize_crop": 0.0}),
    ("data.augment.jpeg_quality", (50, 60), {"data.augment.jpeg": 0.0}),
    ("data.augment.blur_sigma", (0.5, 1.0), {"data.augment.blur": 0.0}),
    ("data.augment.noise_std", (0.5, 1.0), {"data.augment.noise": 0.0}),
    ("data.augment.color_strength", 0.5, {"data.augment.color": 0.0}),
    ("data.augment.cutout_side", (0.5, 1.0), {"data.augment.cutout": 0.0}),
]


@pytest.mark.parametrize(("key", "value", "switched"), UNUSED, ids=lambda value: str(value)[:40])
def test_a_change_without_effect_is_refused(key: str, value: Any, switched: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"^{key} is .*: it would have no effect; [^\n]+$"):
        check({**switched, key: value})


@pytest.mark.parametrize(("key", "value", "switched"), UNUSED, ids=lambda value: str(value)[:40])
def test_the_same_change_is_taken_where_it_has_an_effect(
    key: str, value: Any, switched: dict[str, Any]
) -> None:
    if switched:
        check({key: value})


def test_the_default_is_no_change() -> None:
    check({**IMAGE_ALONE, "optim.text_scale": 1.0, "tuning.text": "full"})


def test_sets_without_captions_are_read_by_the_image_branch_alone() -> None:
    check({**IMAGE_ALONE, "data.captions": "label_only"})


def test_a_recipe_that_says_both_is_refused() -> None:
    with pytest.raises(UserError, match=r"optim.final_share is 0.1: .*set optim.schedule"):
        check({"optim.schedule": "constant", "optim.final_share": 0.1}, chosen=False)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_and_their_sweeps_are_taken(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"configs.{name}")
    check({}, name)
    check(IMAGE_ALONE, name)  # the recipe's choices for a branch that is off are no mistake
    if hasattr(module, "get_sweep"):
        runs = plan.plan(module.get_config(), module.get_sweep(), {"seed": 1})
        plan.SweepFolder(tmp_path).check(runs)


def test_a_sweep_with_runs_that_are_the_same_is_refused(tmp_path: Path) -> None:
    module = importlib.import_module("configs.demo")
    sweep = [{}, {"loss.alignment": 0.0, "loss.targets": "sigmoid"}]
    runs = plan.plan(module.get_config(), sweep, {})
    folder = plan.SweepFolder(tmp_path)
    with pytest.raises(UserError, match=r"run 1: loss.targets is 'sigmoid': it would have no"):
        folder.check(runs)
    # One that has begun goes on as it was.
    workdir = folder.workdir(runs[1])
    (workdir / "checkpoints").mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"config": runs[1].values}))
    folder.check(runs)
