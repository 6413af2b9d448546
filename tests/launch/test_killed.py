"""Evaluations and sweeps that are killed: what they leave never shows another's figures."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.packed.builder import pack
from jax_vlffd.config import LossConfig
from jax_vlffd.evaluation.calibration import sigmoid
from jax_vlffd.evaluation.scores import Scores, to_csv
from tests.support import processes, tiny
from tests.support.packed_sets import write_annotations


def killed(arguments: list[str], when: Callable[[], bool], **kwargs: object) -> int | None:
    """Starts a command in a session of its own and kills all of that with -9 once `when` says so."""
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kwargs,
    )  # fmt: skip
    while process.poll() is None and not when():
        time.sleep(0.0005)
    ended = process.poll()
    if ended is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return ended


def forked(arguments: list[str], when: Callable[[], bool], folder: Path) -> None:
    """The same of one process, which has imported everything when it starts."""
    module, *flags = arguments
    process = processes.start(module, flags, folder / "log", folder / "compiled", cwd=folder)
    while process.exitcode is None and not when():
        time.sleep(0.0005)
    process.kill()
    process.join()


def replaced(path: Path) -> Callable[[], bool]:
    """Whether a file is another than now, or gone."""

    def stamp() -> int:
        return path.stat().st_ino if path.exists() else 0

    before = stamp()
    return lambda: stamp() != before


def after(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def table(seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    label = np.arange(4000) % 2
    texts = [np.full(4000, text) for text in ("FF", "test")]
    method = np.where(label == 1, "Deepfakes", "real")
    name = np.arange(4000).astype(str)
    probability = sigmoid(rng.normal(size=4000) + seed * label)
    return Scores(*texts, method, name, name, name, label, probability)


@pytest.mark.slow
@pytest.mark.parametrize(
    "turns",
    [
        pytest.param([0, 3, 4, 7], id="some"),
        pytest.param([*range(8)] * 5, marks=pytest.mark.campaign, id="all"),
    ],
)
def test_an_evaluation_killed_between_its_files_mixes_nothing(
    tmp_path: Path, turns: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    aucs = {}
    commands = {}
    for name, number in (("one", 1), ("two", 3)):
        (tmp_path / f"{name}.csv").write_text(to_csv({"": table(number)}))
        commands[name] = [
            "launch.evaluate", f"--from_scores={name}={name}.csv", "--bootstrap=0",
        ]  # fmt: skip
        arguments = [*commands[name], f"--out={name}"]
        done = tiny.command(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        metrics = json.loads((tmp_path / name / "metrics.json").read_text())
        aucs[name] = metrics["sets"]["FF"]["frame_auc"]
    assert aucs["one"] != aucs["two"]
    out = tmp_path / "out"
    files = ("scores.csv", "metrics.json", "report.html")
    for turn in turns:
        name = ("one", "two")[turn % 2]
        when = replaced(out / files[turn // 2]) if turn < 6 else after(rng.uniform(0.0, 1.0))
        forked([*commands[name], "--out=out"], when, tmp_path)
        if not (out / "metrics.json").exists():
            continue
        metrics = json.loads((out / "metrics.json").read_text())
        assert metrics["sets"]["FF"]["frame_auc"] == aucs[metrics["detector"]]
        assert metrics["request"]["scores"][0]["file"] == f"{metrics['detector']}.csv"
        with (out / "scores.csv").open() as file:
            row = next(csv.DictReader(file))
        assert row["detector"] == metrics["detector"]
        assert f"Evaluation of {metrics['detector']}" in (out / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("random_moments", [0, pytest.param(20, marks=pytest.mark.campaign)])
def test_a_killed_sweep_never_shows_the_figures_of_another_set(
    packed: Path, tmp_path: Path, random_moments: int, seed: int
) -> None:
    rng = random.Random(seed)
    changes = {"duration": "2 steps", "evaluate_every": "1 steps"}
    loss = LossConfig(alignment=0, fusion=0)
    recipe = tiny.write_recipe(tmp_path / "tiny.py", *tiny.settings(packed, loss=loss, **changes))
    with recipe.open("a") as file:
        file.write("\n\ndef get_sweep():\n    return [{'seed': 1}]\n")
    lines = write_annotations(tmp_path / "b", 6, ("FaceSwap",), split="validation")
    pack([lines], tmp_path / "other")
    workdir = tmp_path / "sweep"
    sets = {"a": f"--data=x={packed}", "b": f"--data=x={tmp_path / 'other'}"}
    environment = tiny.environment(tmp_path / "compiled")

    def sweep(key: str, *flags: str) -> list[str]:
        return [
            "launch.sweep", f"--config={recipe}", f"--workdir={workdir}", "--bootstrap=0",
            "--split=validation", sets[key], *flags,
        ]  # fmt: skip

    def shown(key: str) -> str:
        """What the table says after a sweep."""
        done = tiny.command(*sweep(key), env=environment)
        assert done.returncode == 0, done.stderr
        return (workdir / "summary.csv").read_text()

    expected = {key: shown(key) for key in sets}
    assert expected["a"] != expected["b"]
    (metrics,) = workdir.glob("runs/*/evaluation/metrics.json")
    for turn in range(1 + random_moments):
        when = after(rng.uniform(1, 8)) if turn else replaced(metrics)
        killed(sweep("a"), when, cwd=tiny.ROOT, env=environment)
        assert shown("b") == expected["b"]
