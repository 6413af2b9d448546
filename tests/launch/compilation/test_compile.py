"""The compilation report: what it says, what it refuses, and each recipe against its golden summary."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.loading.settings import DataSettings
from jax_vlffd.compilation import report
from jax_vlffd.compilation.chips import CHIPS
from jax_vlffd.compilation.costs import Collective, Costs
from jax_vlffd.compilation.flops import model_flops
from jax_vlffd.compilation.hlo import Array
from jax_vlffd.config import MeshConfig, RunConfig, TuningConfig
from jax_vlffd.errors import UserError
from launch.compilation import check, table, topology
from tests.launch.experiment.test_recipes import RECIPES
from tests.support import compile_goldens, tiny

#: The recipes that `make test` compiles: all three losses, and a tower of which little trains.
SAMPLE = ("vlffd_clip_b16", "layernorm_l14")
#: What the compiler may change from one version to the next.
COMPILERS = ("collective_bytes", "temporaries")


def compile_tiny(folder: Path, *flags: str, topology: str = "cpu:2") -> Any:
    run, data = tiny.settings(folder)
    recipe = tiny.write_recipe(folder / "recipe.py", run, data)
    return tiny.command("launch.compile", f"--config={recipe}", f"--topology={topology}", *flags)


# --- the command ---


@pytest.mark.slow
def test_the_command_writes_what_others_rely_on(tmp_path: Path) -> None:
    done = compile_tiny(tmp_path, f"--out={tmp_path / 'out.json'}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert (report["topology"], report["devices"], report["fits"]) == ("cpu:2", 2, None)
    for key in ("hbm_bytes_per_chip", "flops_per_chip", "model_flops_per_chip", "collective_bytes"):
        assert report[key] > 0, key
    assert report["compile_s"] >= 0
    assert 1 <= report["flops_over_model"] < 1.2
    assert report["arrays_of_global_similarity"] == 0
    assert report["collective_bytes"] >= 0.9 * sum(report["collectives_least"].values())
    assert 1 <= report["eval"]["flops_over_model"] < 1.02
    split = report["hbm_split_per_chip"]
    assert split["optimizer"] == pytest.approx(2 * split["parameters"], rel=0.01)
    assert split["peak"] > split["parameters"] + split["optimizer"] + split["batch"]
    for text in ("FLOPs a chip", "all-reduce", "optimizer", "eval step"):
        assert text in done.stdout


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9:2x2", "there is no topology 'v9:2x2'; give one as v4:2x2x4"),
        ("h100:8", "there is no topology 'h100:8'"),
        ("v5e:16", "'v5e:16': give the chips along each axis, as v5e:16x16"),
        ("v5p:8x8", "'v5p:8x8': v5p has 3 axes, as v5p:8x8x8"),
        ("v6e:32x16", "a pod of v6e has 256 chips at most"),
        ("cpu:0", "give cpu:N with N from 1 to 1024"),
        ("cpu:many", "give cpu:N with N from 1 to 1024"),
        ("", "there is no topology ''"),
    ],
)
def test_a_topology_that_does_not_exist_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        topology.devices(name)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_cpus_than_jax_started_with_are_refused() -> None:
    with pytest.raises(UserError, match=r"started with 8 CPU devices, and cpu:16 needs 16"):
        topology.devices("cpu:16")


def test_a_refused_command_says_so_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    done = compile_tiny(tmp_path, f"--out={out}", "--config.data.batch_size=9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: a batch of 9 does not divide over 2 x 1 devices")
    assert "8 or 10 would" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not out.exists()


def test_a_mesh_that_does_not_multiply_is_refused(tmp_path: Path) -> None:
    run, data = tiny.settings(tmp_path)
    run = dataclasses.replace(run, mesh=MeshConfig(data=-1, fsdp=3))
    with pytest.raises(UserError, match="does not multiply to the 8 devices"):
        check.compile_steps(run, data, jax.devices(), None)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is not None, reason="libtpu is installed")
def test_without_libtpu_the_remedy_is_named() -> None:
    with pytest.raises(UserError, match=r"pip install 'jax-vlffd\[tpu\]'"):
        topology.devices("v5e:2x2")


# --- the report ---


def test_the_roofline_is_of_the_makers_figures() -> None:
    chip = next(chip for chip in CHIPS if chip.name == "v5e")
    reduced = {"all-reduce": Collective(1, 1e9, 2e9)}
    program = Costs(1e12, 197e12, {}, reduced, 819e9, frozenset(), ())
    estimate = report.roofline(program, 98.5e12, chip)
    assert [estimate[name] for name in ("compute_s", "memory_s", "link_s")] == [1, 1, 0.01]
    assert estimate["utilization_at_best"] == pytest.approx(0.5)
    assert estimate["utilization_without_overlap"] == pytest.approx(0.5 / 2.01)


def test_the_minimum_collectives() -> None:
    plan = tiny.plan((8, 1, 1))
    sizes = sum(shape.size for path, shape in plan.shapes.items() if path in plan.trainable)
    minimum = report.min_collectives(plan, tiny.BATCH)
    assert minimum["gradients"] == 4 * sizes
    assert minimum["parameters"] == 0
    assert minimum["embeddings"] == 2 * 2 * 4 * tiny.BATCH * tiny.CLIP.embed_dim
    assert sum(report.min_collectives(tiny.plan((1, 1, 1)), tiny.BATCH).values()) < 1e5
    assert report.min_collectives(tiny.plan((2, 4, 1)), tiny.BATCH)["parameters"] > 0


def test_arrays_of_the_global_similarity_are_counted() -> None:
    plan, batch = tiny.plan((2, 1, 1)), 48
    memory = report.Memory(0, 0, 0, 0, 0, 0)

    def count(*shapes: tuple[int, ...], batch: int = batch) -> int | None:
        arrays = frozenset(Array("f32", shape) for shape in shapes)
        costs = Costs(0, 0, {}, {}, 0, arrays, ())
        return report.CompiledStep(True, memory, 0, costs).global_similarities(plan, batch)

    assert count((batch // 2, batch), (batch, 32)) == 0
    assert count((batch, batch), (1, batch, batch), (batch, 32)) == 2
    assert count((32, 32), batch=32) is None  # the model is as wide


def test_activations_shrink_with_remat() -> None:
    def activations(remat: str) -> float:
        plan = tiny.plan((2, 1, 1), remat=remat)
        return report._activation_bytes(plan, report.batch_of(plan, tiny.BATCH))

    assert activations("full") < activations("dots") < activations("none")


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (
            "Ran out of memory on HBM, the total memory required for HLO temporaries (51.90G) exceeds "
            "available HBM (15.75G).\nmore", 51.9 * 2**30,
        ),
        ("Ran out of memory in memory space hbm. Used 900.5M of 15.75G hbm.", 900.5 * 2**20),
        ("no size is given", None),
    ],
)  # fmt: skip
def test_a_step_that_does_not_fit_is_read_from_the_refusal(
    words: str, wanted: float | None
) -> None:
    class Refused:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: {words}")

    plan = tiny.plan((2, 1, 1))
    parts = (plan.abstract.parameters, plan.abstract.optimizer, report.batch_of(plan, tiny.BATCH))
    step = report._compile(Refused(), plan, parts, 0.0, CHIPS[1])
    assert step.fits is False
    assert step.memory.peak == wanted
    model = model_flops(plan.spec.model, plan.spec.loss, TuningConfig(), batch_size=tiny.BATCH)
    summary = report.summary(plan, tiny.BATCH, model, step, step, CHIPS[1])
    assert summary["fits"] is False
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    named = {"topology": "v5e:1x2", "batch_size": tiny.BATCH, "remat": "none"}
    text = "\n".join(": ".join(row) for row in table.rows(summary | named))
    assert "DOES NOT FIT" in text
    assert words.split("\n")[0] in text


def test_each_kind_of_setting_is_tried_until_one_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiler is left out: nothing here could refuse a program for its size."""
    asked: list[str] = []

    def compile_steps(run: RunConfig, data: DataSettings, *_: Any, **__: Any) -> dict[str, Any]:
        attempts = (
            run.model.compute.remat, run.mesh.fsdp, run.train.accumulate, data.batch_size,
        )  # fmt: skip
        asked.append(str(attempts))
        fits = attempts[0] == "full" or attempts[1] >= 16 or attempts[2] >= 2 or attempts[3] <= 16
        return {"fits": fits, "hbm_bytes_per_chip": 2**30}

    monkeypatch.setattr(check, "compile_steps", compile_steps)
    run, data = tiny.settings(tmp_path, batch_size=64)
    attempts = check.search_fitting_settings(run, data, [None] * 16, None)
    assert [(entry["key"], entry["value"], entry["fits"]) for entry in attempts] == [
        ("compute.remat", "dots", False), ("compute.remat", "full", True),
        ("mesh.fsdp", 4, False), ("mesh.fsdp", 16, True),
        ("train.accumulate", 2, True),
        ("data.batch_size", 32, False), ("data.batch_size", 16, True),
    ]  # fmt: skip
    assert len(asked) == len(attempts)
    rendered = [table.attempt_row(entry) for entry in attempts]
    assert rendered[0] == ("tried compute.remat=dots", "does not fit, 1.000 GiB")
    assert rendered[-1] == ("tried data.batch_size=16", "fits, 1.000 GiB")


@settings(deadline=None, max_examples=50)
@given(
    units=st.integers(1, 64),
    devices=st.sampled_from([1, 2, 3, 6, 8]),
    parts=st.integers(1, 3),
    paired=st.booleans(),
)
def test_only_batches_that_divide_are_tried(
    units: int, devices: int, parts: int, paired: bool
) -> None:
    """The compiler is left out: nothing here could refuse a program for its size."""
    unit = math.lcm(devices * parts, 2 if paired else 1)
    run, data = tiny.settings(
        Path("/set"), batch_size=units * unit, accumulate=parts, paired=paired
    )
    refused = {"fits": False, "hbm_bytes_per_chip": 2**30}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check, "compile_steps", lambda *_, **__: refused)
        attempts = check.search_fitting_settings(run, data, [None] * devices, None)
    sizes = [entry["value"] for entry in attempts if entry["key"] == "data.batch_size"]
    assert [size for size in sizes if size % unit] == []
    assert sizes == sorted(set(sizes), reverse=True)
    assert all(0 < size < data.batch_size for size in sizes)
    assert bool(sizes) == (units > 1)


# --- the recipes ---


def test_every_recipe_has_its_golden_summary() -> None:
    assert set(compile_goldens.read()) == {*RECIPES, compile_goldens.POD}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name in SAMPLE else pytest.param(name, marks=pytest.mark.campaign)
        for name in (*RECIPES, compile_goldens.POD)
    ],
)
def test_a_recipe_takes_what_its_golden_summary_says(name: str) -> None:
    if "@" in name and importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu is not installed, so nothing can be compiled for a TPU")
    golden, measured = compile_goldens.read()[name], compile_goldens.measure(name)
    for key, wanted in golden.items():
        if key == "jax":
            continue
        if key in COMPILERS and golden["jax"] != jax.__version__:
            continue
        assert measured[key] == pytest.approx(wanted, rel=0.02), (
            f"{key}; if the change is meant: python -m tests.support.compile_goldens {name}"
        )
    recipe = importlib.import_module(f"configs.{name.partition('@')[0]}").get_config()
    limit = 1.36 if recipe.compute.remat == "full" else 1.05
    assert measured["flops"] <= limit * measured["model_flops"]
