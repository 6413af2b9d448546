"""What an older version made is read, resumed and evaluated as that version did; `fixtures/make.py` made it.

Numbers are compared with what the old version computed. Between machines the bits of a sum differ, so losses
may be off by a relative 1e-5, answers by 1e-4; what is counted, read or said must be equal.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.fftg.measure.versions import VERSION
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.evaluation.metrics import COVERED
from launch.experiment import workdir
from tests.fixtures import make
from tests.support import tiny
from tests.support.faulty_server import FaultyServer

EXPECTED: dict[str, Any] = json.loads((make.FOLDER / "expected.json").read_text())

Run = Callable[..., str]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A copy of the artifacts."""
    return Path(shutil.copytree(make.FOLDER, tmp_path / "old"))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return tiny.environment(tmp_path_factory.mktemp("compiled")) | make.ENVIRONMENT


@pytest.fixture
def run(old: Path, environment: dict[str, str]) -> Run:
    """Runs a command of ours within the copy to a good end; gives what it prints."""

    def command(module: str, *flags: str) -> str:
        done = tiny.command(f"launch.{module}", *flags, cwd=old, env=environment, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return command


def assert_holds(result: Any, expected: Any, place: str = "", **tolerance: float) -> None:
    """Sees that all that was there is there and equal, numbers within a tolerance; more may have come."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in result, f"{place}.{key} is lost"
            assert_holds(result[key], value, f"{place}.{key}", **tolerance)
    elif isinstance(expected, list):
        assert len(result) == len(expected), place
        for number, (ours, theirs) in enumerate(zip(result, expected, strict=True)):
            assert_holds(ours, theirs, f"{place}[{number}]", **tolerance)
    elif isinstance(expected, float):
        assert result == pytest.approx(expected, **tolerance), place
    else:
        assert result == expected, place


def without_covered(value: Any, key: str = "") -> Any:
    """Leaves out the intervals of the metrics that had percentile intervals then, which did not cover."""
    if isinstance(value, list):
        return [without_covered(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {
        name: without_covered(each, name)
        for name, each in value.items()
        if not (name in COVERED and isinstance(each, list))
        and not (name == "interval" and key in COVERED)
        and not (name.endswith((":low", ":high")) and name.split(":")[-2] in COVERED)
    }


def test_annotations_are_kept_and_no_reply_is_paid_for_again(old: Path, run: Run) -> None:
    pytest.importorskip("openai", reason="the extra `annotate` is not installed")
    pytest.importorskip("pydantic", reason="the extra `annotate` is not installed")
    assert EXPECTED["annotation"]["sources"].keys() == {"refined", "fallback"}
    before = make.read_lines(old / "annotated.jsonl")
    journal = (old / "annotated.jsonl.replies.jsonl").read_bytes()
    with FaultyServer() as server:
        said = run("annotate", *make.ANNOTATE, f"--base_url={server.url}")
        assert server.calls == []
    assert f"{len(before)} rows: 0 annotated, {len(before)} already done, 0 failed" in said
    assert_holds(make.read_lines(old / "annotated.jsonl"), before)
    assert (old / "annotated.jsonl.replies.jsonl").read_bytes() == journal


@pytest.mark.slow
def test_older_captions_are_refined_anew_only_where_that_is_asked_for(
    old: Path, environment: dict[str, str]
) -> None:
    pytest.importorskip("openai", reason="the extra `annotate` is not installed")
    before = make.read_lines(old / "annotated.jsonl")
    paid = sum(line["refinement"].get("turns", 0) > 0 for line in before)
    with FaultyServer() as server:
        flags = (*make.ANNOTATE, f"--base_url={server.url}")
        kept, anew = (
            tiny.command("launch.annotate", *flags, *more, cwd=old, env=environment, timeout=300)
            for more in ([], ["--reannotate"])
        )
        assert kept.returncode == anew.returncode == 0, kept.stderr + anew.stderr
        assert server.calls
    remark = f"note: {paid} captions were refined with an older version of the annotator"
    assert kept.stderr.splitlines()[0].startswith(f"{remark} and are kept")
    assert anew.stderr.splitlines()[0].startswith(f"{remark}; these pairs are annotated again")
    assert f"kept {paid} of an older annotator" in kept.stdout
    after = make.read_lines(old / "annotated.jsonl")
    assert {line["refinement"]["annotator"] for line in after} == {VERSION}
    assert not {line["key"] for line in after} & {line["key"] for line in before}


def test_annotations_are_packed_to_the_same_records(old: Path, run: Run) -> None:
    run("pack", "--annotations=annotated.jsonl", "--out=again")
    for name, expected in EXPECTED["packed"].items():
        assert make.records(PackedSplit(old / "again", name)) == expected


def test_a_packed_set_is_read_to_the_last_byte(old: Path) -> None:
    for name, expected in EXPECTED["packed"].items():
        assert expected
        assert make.records(PackedSplit(old / "packed", name)) == expected


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_as_it_would_have(old: Path, run: Run) -> None:
    expected = dict(EXPECTED["training"])
    assert make.last_step(old / "stopped") == expected.pop("stopped_at")
    run("train", f"--config={make.RECIPE}", "--workdir=stopped")
    ours, theirs = (workdir.load_run(old / name, "latest") for name in ("stopped", "finished"))
    # The undisturbed run ended with the parameters to which the old version resumed.
    assert make.digest(theirs.parameters) == expected.pop("parameters")
    assert_holds(make.results(old / "stopped"), expected, rel=1e-5, abs=1e-6)
    for name, value in theirs.parameters.items():
        np.testing.assert_allclose(ours.parameters[name], value, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(old: Path, run: Run) -> None:
    before = make.results(old / "finished")
    run("train", f"--config={make.RECIPE}", "--workdir=finished")
    assert_holds(make.results(old / "finished"), before, rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_a_run_scores_a_set_as_before(old: Path, run: Run) -> None:
    run("evaluate", "--workdir=finished", *make.EVALUATE, "--out=again")
    before = without_covered(metrics(old / "evaluation"))
    assert before["sets"]["held"]["intervals"].keys() == {"ap", "ece", "ece_calibrated"}
    assert_holds(metrics(old / "again"), before, rel=1e-4, abs=1e-4)
    ours, theirs = (
        table((old / name / "scores.csv").read_text()) for name in ("again", "evaluation")
    )
    assert_holds(ours, theirs, rel=1e-4, abs=1e-4)


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def table(text: str) -> list[dict[str, Any]]:
    """The rows of a CSV, its numbers as such."""

    def value(text: str) -> Any:
        try:
            return float(text)
        except ValueError:
            return text

    rows = csv.DictReader(io.StringIO(text))
    return [{name: value(text) for name, text in row.items()} for row in rows]


@pytest.mark.slow
def test_scores_give_the_same_metrics(old: Path, run: Run) -> None:
    run("evaluate", *make.FROM_SCORES, "--out=again")
    expected = without_covered(EXPECTED["evaluation"]["from_scores"])
    assert_holds(metrics(old / "again"), expected, rel=1e-6)


@pytest.mark.slow
def test_an_export_answers_as_before_and_goes_on_with_a_torn_file(old: Path, run: Run) -> None:
    torn = (old / "predictions.jsonl").read_bytes()
    kept = torn[: torn.rindex(b"\n") + 1]
    said = run("predict", *make.PREDICT)
    assert f"{make.ANSWERED} files were answered before" in said
    assert (old / "predictions.jsonl").read_bytes().startswith(kept)
    result = make.predictions(old / "predictions.jsonl")
    assert len(result) > make.ANSWERED
    assert_holds(result, EXPECTED["predictions"], rel=1e-4, abs=1e-4)
    assert any(line["reasons"] for line in result)
    # The workdir itself answers as its export does.
    run("predict", "--checkpoint=finished", "--out=again.jsonl", *make.PICTURES)
    for ours, theirs in zip(make.predictions(old / "again.jsonl"), result, strict=True):
        assert ours.pop("model")["hash"] == theirs.pop("model")["hash"]
        assert_holds(ours, theirs, rel=1e-4, abs=1e-4)


@pytest.mark.slow
def test_a_workdir_is_exported_to_the_same_parameters(old: Path, run: Run) -> None:
    run("export", "--workdir=finished", "--out=again", "--name=old")
    ours, theirs = (workdir.load_run(old / name) for name in ("again", "export"))
    assert make.digest(ours.parameters) == make.digest(theirs.parameters)
    assert (ours.step, ours.calibration) == (theirs.step, theirs.calibration)
    # An old export names its methods; an old workdir does not, and the sets that its config names may be
    # left closed.
    assert theirs.methods == ("blur", "boundary", "color", "mixed", "structure", "texture")
    assert ours.methods in ((), theirs.methods)
    files = {name: {p.name for p in (old / name).iterdir()} for name in ("again", "export")}
    assert files["again"] >= files["export"]


@pytest.mark.slow
def test_a_sweep_is_done_before_and_has_the_same_table(old: Path, run: Run) -> None:
    """Evaluating its runs once more would do no harm; training them again, or losing one, would."""
    trained = {
        path: path.read_bytes()
        for path in (old / "sweep" / "runs").rglob("*")
        if path.is_file() and "evaluation" not in path.parts
    }
    listed = run("sweep", *make.SWEEP, "--list")
    assert [line.split()[1] for line in listed.splitlines()] in (["done"] * 2, ["trained"] * 2)
    run("sweep", *make.SWEEP)
    rows = table((old / "sweep" / "summary.csv").read_text())
    assert_holds(rows, without_covered(table(EXPECTED["sweep"])), rel=1e-4, abs=1e-4)
    assert {path: path.read_bytes() for path in trained} == trained


@pytest.mark.slow
def test_another_run_goes_on_from_an_old_one(old: Path, run: Run) -> None:
    run(
        "train", f"--config={make.RECIPE}", "--workdir=longer", "--config.init.resume=finished",
        "--config.train.duration=42 steps",
    )  # fmt: skip
    steps = [line["step"] for line in make.read_lines(old / "longer" / "metrics.jsonl")]
    assert steps[-1] == 42
    assert min(steps) > 40
