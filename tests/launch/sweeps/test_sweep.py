"""Sweeps: how they are built, checked, run, taken up again and told."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from configs import demo, sweeps
from jax_vlffd.config import LossConfig
from jax_vlffd.errors import UserError
from jax_vlffd.reports import sweep as sweep_report
from launch.sweeps import plan as planned
from tests.support import tiny

# --- the functions that build a sweep ---


def test_product_zip_and_chain() -> None:
    a, b = sweeps.each("a", [1, 2]), sweeps.each("b", "xy")
    assert sweeps.product(a, b) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip
    assert sweeps.zip_(a, b) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert sweeps.chain(a, b, a) == [{"a": 1}, {"a": 2}, {"b": "x"}, {"b": "y"}]
    assert sweeps.product() == [{}]


def test_what_cannot_be_joined_is_refused() -> None:
    with pytest.raises(ValueError, match="both set a"):
        sweeps.product(sweeps.each("a", [1]), sweeps.each("a", [2]))
    with pytest.raises(ValueError, match=r"different lengths: \[1, 2\]"):
        sweeps.zip_(sweeps.each("a", [1]), sweeps.each("b", [1, 2]))


@pytest.mark.parametrize(
    "recipe",
    [
        path.stem
        for path in sorted((tiny.ROOT / "configs").glob("*.py"))
        if re.search(r"^(def )?get_sweep\b", path.read_text(), re.MULTILINE)
    ],
)
def test_every_recipe_s_sweep_is_sound(recipe: str) -> None:
    path = tiny.ROOT / "configs" / f"{recipe}.py"
    module: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), module)
    runs = planned.plan(module["get_config"](), planned.read_sweep(path), {})
    assert len({run.id for run in runs}) == len(runs) == 10


# --- checked before anything runs ---


def plan(*overrides: Any, command_line: Any = None) -> list[planned.SweepRun]:
    return planned.plan(demo.get_config(), overrides, command_line or {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"optim.lerning_rate": 1}, "no key 'optim.lerning_rate'; did you mean 'optim.learning_ra"),
        ({"learning_rate": 1}, "no key 'learning_rate'; did you mean 'optim.learning_rate'?"),
        ({"tuning.q": 1}, "no key 'tuning.q'; valid are tuning.text, tuning.vision"),
        ({"optim": 1}, "no key 'optim'"),
        ({"train.log_every": "often"}, "run 1: "),
        ({"train.keep": 0}, "run 1: train.keep is 0: it must be greater than 0"),
        ({"tuning.vision": "lora"}, "run 1: tuning 'lora' wants compute.lora_rank"),
        ({"data.captions": "some"}, "data.captions is 'some': it must be 'all', 'raw', 'label_"),
        ({"data.balance": None}, "data.balance cannot be set to None"),
        ({"seed": 0}, "run 1 is the same as run 0 (seed=0); leave one out"),
        (
            {"data.prefetch": 3},
            "--config.data.prefetch is set by the command line and by the sweep",
        ),
        ({1: 2}, "{1: 2} is not a dict of overrides by dotted key"),
        ("seed", "'seed' is not a dict of overrides"),
    ],
)
def test_a_wrong_override_is_named(overrides: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        plan({"seed": 0}, overrides, command_line={"data.prefetch": 3})
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_those_of_the_config_and_go_through_the_command_line() -> None:
    values = {"optim.learning_rate": 1, "data.augment.resize_crop_side": (0.5, 1.0), "seed": 3}
    (run,) = plan(values, command_line={"data.train": "a,b@0.5"})
    assert run.values["optim"]["learning_rate"] == 1.0
    assert run.flags() == [
        "--config.data.train=a,b@0.5", "--config.optim.learning_rate=1.0",
        "--config.data.augment.resize_crop_side=(0.5, 1.0)", "--config.seed=3",
    ]  # fmt: skip


def test_ids_are_stable_distinct_bounded_and_fit_every_file_system() -> None:
    first = plan({"seed": 1}, {"optim.learning_rate": 1e-3, "seed": 2})
    other = plan({"seed": 5}, {"seed": 2, "optim.learning_rate": 0.001}, {"seed": 1})
    assert first[1].id == other[1].id
    assert first[0].id == other[2].id
    assert first[0].id.startswith("seed=1-")
    odd = plan({}, {"init.clip": "../.. \\x/" + "ü" * 400}, {"init.clip": "a"}, {"init.clip": "A"})
    for run in odd:
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,90}", run.id), run.id
    assert len({run.id.lower() for run in odd}) == 4


def recipe(path: Path, sweep: str) -> Path:
    path.write_text(f"from configs.demo import get_config\nimport configs.sweeps as s\n{sweep}\n")
    return path


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no get_sweep(); add one"),
        ("def get_sweep(): return []", "returns 0 runs"),
        ("def get_sweep(): return 3", "get_sweep(): "),
        (
            "def get_sweep(): return s.zip_(s.each('a', [1]), s.each('b', [1, 2]))",
            "get_sweep(): zip_ of sweeps of different lengths",
        ),
    ],
)
def test_a_recipe_without_a_valid_sweep_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        planned.read_sweep(recipe(tmp_path / "r.py", text))
    assert message in str(caught.value)
    assert str(tmp_path / "r.py") in str(caught.value)


# --- the table and the page ---


def row(index: int, auc: float | None, rate: float, captions: str = "all") -> sweep_report.Row:
    sets = {} if auc is None else {
        "set, one": {"frame_auc": auc, "eer": 1 - auc, "intervals": {"frame_auc": [auc - 0.05, auc + 0.05]}}
    }  # fmt: skip
    settings = {"optim.learning_rate": rate, "twin": rate, "data.captions": captions, "same": 1}
    return sweep_report.Row(
        f"run{index}", index, f"rate={rate}, <b>", "done" if sets else "failed", settings, sets,
        {"seconds": 12}, "" if sets else "no | such set",
    )  # fmt: skip


ROWS = [row(0, 0.7, 1e-3), row(1, None, 1e-4), row(2, 0.9, 1e-2, "raw"), row(3, 0.8, 1e-4)]


def test_the_table_is_sorted_with_intervals_and_failures_last() -> None:
    lines = list(csv.DictReader(io.StringIO(sweep_report.to_csv(ROWS, "frame_auc"))))
    assert [line["run"] for line in lines] == ["run2", "run3", "run0", "run1"]
    assert lines[0]["set, one:frame_auc:low"] == str(0.9 - 0.05)
    assert lines[0]["optim.learning_rate"] == "0.01"
    assert (lines[3]["set, one:frame_auc"], lines[3]["message"]) == ("", "no | such set")
    by_error = csv.DictReader(io.StringIO(sweep_report.to_csv(ROWS, "eer")))
    assert [line["run"] for line in by_error][:3] == ["run2", "run3", "run0"]
    header, first, *_, last = sweep_report.cells(ROWS, "frame_auc")
    assert header == ["rank", "changed", *(f"{name}: Frame AUC" for name in ROWS[0].sets), "status"]
    assert "0.900 [0.850, 0.950]" in first
    assert last[-1] == "failed: no | such set"


def test_the_page_has_a_plot_for_each_key_that_changes_and_loads_nothing() -> None:
    html = sweep_report.render("Sweep", ROWS, "frame_auc", {"Recipe": "<x>"})
    titles = re.findall(r"<svg [^>]*><title>([^<]*)</title>", html)
    changed = [title.partition(", by ")[2] for title in titles]
    assert changed == ["optim.learning_rate, twin", "data.captions"]
    assert len(re.findall(r"<g><title>[^<]*: 0\.\d{3}</title>", html)) == 6  # dots
    assert re.findall(r"text-anchor: middle[^>]*>([^<]+)</text>", html)[:3] == [
        "0.0001",
        "0.001",
        "0.01",
    ]
    assert "<b>" not in html
    assert "<x>" not in html
    assert not re.search(r"<script|https?:|src=\"(?!data:)", html)


def test_the_command_offers_the_table_s_metrics() -> None:
    done = tiny.command("launch.sweep", "--metric=none", "--config=x.py", "--workdir=x")
    assert done.returncode == 2
    assert f"one of {', '.join(sweep_report.METRICS)}; see" in done.stderr


# --- the command ---


@pytest.fixture(scope="module")
def tiny_recipe(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = tiny.settings(
        packed, loss=LossConfig(alignment=0, fusion=0), duration="2 steps", evaluate_every="1 steps"
    )
    path = tiny.write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.py", *settings)
    with path.open("a") as file:
        file.write(
            "\n\ndef get_sweep():\n"
            "    return [{'data.methods': 'None such'}, {'seed': 1}, {'seed': 2}]\n"
        )
    return path


def sweep(
    recipe: Path, workdir: Path, *flags: str, **more: Any
) -> subprocess.CompletedProcess[str]:
    arguments = (f"--config={recipe}", f"--workdir={workdir}", "--bootstrap=50", *flags)
    return tiny.command("launch.sweep", *arguments, **more)


def test_listing_and_a_dry_run_write_nothing(
    tiny_recipe: Path, packed: Path, tmp_path: Path
) -> None:
    listed = sweep(tiny_recipe, tmp_path / "sweep", "--list")
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[:2] for line in listed.stdout.splitlines()] == [
        [str(n), "new"] for n in range(3)
    ]
    dry = sweep(tiny_recipe, tmp_path / "sweep", "--dry_run", "--index=2", "--config.seed=7")
    assert dry.returncode == 1
    assert "--config.seed is set by the command line and by the sweep" in dry.stderr
    dry = sweep(
        tiny_recipe, tmp_path / "sweep", "--dry_run", "--shard=1/2", "--config.optim.eps=0.1"
    )
    train, evaluate = dry.stdout.splitlines()
    assert train.startswith(f"python -m launch.train --config={tiny_recipe} --workdir=")
    assert train.endswith("--config.optim.eps=0.1 --config.seed=1")
    assert f"--split=validation --bootstrap=50 --seed=0 --data=packed={packed}" in evaluate
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--index=3"], "--index=3: the sweep has runs 0 to 2"),
        (["--index=1", "--shard=0/2"], "--index and --shard both choose runs"),
        (["--shard=2/2"], "--shard=2/2: write i/n"),
        (["--data=x"], "--data=x: write NAME=PATH"),
        (["--config.data.validation="], "no set to train and compare on"),
    ],
)
def test_mistakes_are_one_line(
    tiny_recipe: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    done = sweep(tiny_recipe, tmp_path / "sweep", *flags)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "sweep").exists()


def table(workdir: Path) -> dict[str, dict[str, str]]:
    return {line["index"]: line for line in csv.DictReader((workdir / "summary.csv").open())}


@pytest.mark.slow
def test_a_sweep_runs_records_skips_and_goes_on(
    tiny_recipe: Path, packed: Path, tmp_path: Path
) -> None:
    workdir = tmp_path / "sweep"
    done = sweep(tiny_recipe, workdir, "--shard=0/2")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "error: 1 of 2 runs failed; the table says why, and the same command tries them again"
    )
    result = table(workdir)
    assert [result[n]["status"] for n in "012"] == ["failed", "new", "done"]
    assert "has no fakes of None such (data.methods)" in result["0"]["message"]
    low, value, high = (float(result["2"][f"packed:frame_auc{x}"]) for x in (":low", "", ":high"))
    assert low <= value <= high
    page = (workdir / "summary.html").read_text()
    assert "seed=2" in page
    assert "has no fakes of None such" in page
    (failure,) = (workdir / "failures").iterdir()
    assert json.loads(failure.read_text())["overrides"] == {"data.methods": "None such"}
    (run,) = (workdir / "runs").iterdir()  # of the failed one nothing was trained
    # What is done is left as it is.
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    again = sweep(tiny_recipe, workdir, "--index=2")
    assert again.returncode == 0, again.stderr
    assert f"{run.name}: already done" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before
    # What was broken off after its last checkpoint goes on from there.
    history = (run / "metrics.jsonl").read_text()
    (run / "summary.json").unlink()
    again = sweep(tiny_recipe, workdir, "--index=2")
    assert again.returncode == 0, again.stderr
    assert f"{run.name}: begun" in again.stderr
    assert (run / "metrics.jsonl").read_text() == history
    assert (run / "summary.json").exists()
    # A run that another process is running is skipped; another config's runs are refused.
    with (workdir / "logs" / f"{run.name}.log").open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        busy = sweep(tiny_recipe, workdir, "--index=2")
    assert busy.returncode == 1
    assert "1 of 1 runs were skipped because another sweep is running them" in busy.stderr
    assert f"{run.name}: another sweep is running it" in busy.stderr
    other = sweep(tiny_recipe, workdir, "--config.optim.eps=0.5")
    assert other.returncode == 1
    assert f"{run} holds a run of another config (optim.eps 1e-06 -> 0.5)" in other.stderr
