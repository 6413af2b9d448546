"""Exports as our own commands read them back, and what is refused."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from jax_vlffd import Detector, checksums
from jax_vlffd.errors import UserError
from jax_vlffd.export import folder
from jax_vlffd.inference.trained import open_trained
from jax_vlffd.reports import model_card
from launch.experiment import export
from launch.experiment import workdir as runs
from tests.support import tiny
from tests.support.tiny_export import IMAGES, STEP, Made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora", "vit"])
def test_an_export_scores_as_its_run_to_the_bit(made: Made, packed: Path, name: str) -> None:
    workdir, out = made(name)
    before, after = runs.load_run(workdir), runs.load_run(out)
    assert after.step == before.step == STEP
    assert after.calibration == before.calibration is not None
    assert after.name == before.name
    assert after.methods == before.methods == ("Deepfakes", "FaceSwap")
    expected, actual = (run.score(packed, "validation") for run in (before, after))
    assert expected.id.tolist() == actual.id.tolist()
    assert expected.logit.tobytes() == actual.logit.tobytes()


def test_the_detector_of_an_export_predicts_like_that_of_its_run(made: Made) -> None:
    workdir, out = made("lora")
    before, after = (Detector.from_pretrained(path) for path in (workdir, out))
    expected, actual = (detector.predict(list(IMAGES)) for detector in (before, after))
    assert actual == expected
    assert actual[0].regions is not None
    assert np.array_equal(actual[0].classifier_map, expected[0].classifier_map)
    assert after.trained.hash() == before.trained.hash()


def test_the_detector_refuses_a_folder_that_is_not_an_export(copy: Path, tmp_path: Path) -> None:
    (copy / "heads.safetensors").unlink()
    with pytest.raises(UserError, match=r"heads.safetensors of the export is missing"):
        Detector.from_pretrained(copy)
    with pytest.raises(UserError, match=r"or a hub id such as"):
        Detector.from_pretrained(tmp_path / "none")
    with pytest.raises(UserError, match=r"give the --workdir of launch.train, or the --out"):
        Detector.from_pretrained(tmp_path)


def test_what_is_for_other_libraries_may_be_left_behind(copy: Path) -> None:
    shutil.rmtree(copy / "hf")
    (copy / "model.stablehlo").unlink()
    assert runs.load_run(copy).step == STEP


@pytest.mark.slow
def test_the_commands_export_and_evaluate(made: Made, packed: Path, tmp_path: Path) -> None:
    workdir, _ = made("clip")
    out = tmp_path / "out"
    done = tiny.command("launch.export", f"--workdir={workdir}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"exported step {STEP} of {workdir} to {out}, ")
    done = tiny.command(
        "launch.evaluate", f"--workdir={out}", f"--data=tiny={packed}", "--split=validation",
        f"--out={tmp_path / 'metrics'}", "--bootstrap=20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics" / "metrics.json").read_text())
    assert metrics["detector"] == "run"
    again = tiny.command("launch.export", f"--workdir={workdir}", f"--out={out}")
    assert again.returncode == 1
    assert again.stderr == (
        f"error: {out} is there already; choose another --out, or remove it first\n"
    )


def test_checksums_are_those_of_every_file(made: Made) -> None:
    _, out = made("clip")
    lines = (out / "SHA256SUMS").read_text().splitlines()
    listed = dict(reversed(line.split("  ")) for line in lines)
    there = {p.relative_to(out).as_posix(): p for p in out.rglob("*") if p.is_file()}
    assert listed.keys() == there.keys() - {"SHA256SUMS"}
    for name, digest in listed.items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == digest


# --- what is refused ---


@pytest.fixture
def copy(made: Made, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made("clip")[1], tmp_path / "export"))


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        runs.load_run(path)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_an_export_with_missing_files_is_named(copy: Path) -> None:
    (copy / "heads.safetensors").unlink()
    refused(copy, str(copy), "heads.safetensors of the export is missing; copy the whole folder")
    shutil.rmtree(copy / "orbax")
    refused(copy, "heads.safetensors, orbax/_CHECKPOINT_METADATA", "and ", " more")
    (copy / "SHA256SUMS").unlink()
    refused(copy, "SHA256SUMS: cannot be read", "copy the whole export again")


def test_parameters_that_lack_a_head_are_refused(copy: Path) -> None:
    values = {path: np.asarray(v) for path, v in runs.load_run(copy).parameters.items()}
    shutil.rmtree(copy / "orbax")
    folder.save_parameters(copy, {k: v for k, v in values.items() if "image_head" not in k})
    checksums.write(copy)
    refused(
        copy, str(copy / "orbax"), "not the parameters of the model that", "config.json describes: ",
        "image_head/bias is missing; image_head/weight is missing; copy the whole",
    )  # fmt: skip


def test_an_export_of_another_architecture_is_refused(copy: Path) -> None:
    settings = json.loads((copy / "config.json").read_text())
    settings["config"]["model"]["vision"]["layers"] = 3
    (copy / "config.json").write_text(json.dumps(settings))
    checksums.write(copy)
    refused(
        copy, str(copy / "orbax"), "not the parameters of the model that", "config.json describes: ",
        "vision/blocks/attention/key/bias is [2, 32], not [3, 32]", " more; ",
    )  # fmt: skip


def test_truncated_parameters_are_reported(copy: Path) -> None:
    for file in (copy / "orbax").rglob("*"):
        if file.is_file() and file.stat().st_size > 4096:
            data = file.read_bytes()
            file.write_bytes(data[: len(data) * 3 // 4])
    refused(copy, "differs from SHA256SUMS", "copy the whole folder again")
    checksums.write(copy)
    refused(copy, str(copy / "orbax"), "damaged (", "copy the whole export again")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("export.json", "{", "export.json is not JSON"),
        ("export.json", "[" * 100_000, "export.json is not JSON"),
        ("export.json", '{"version": 9}', "not an export of version 1"),
        ("export.json", '{"version": 1}', "has no step"),
        ("SHA256SUMS", "0  ../../etc/passwd\n", "not a list of a folder's files"),
        ("calibration.json", "{}", "not a calibration of version"),
        ("config.json", "{}", "not a run's config"),
    ],
)
def test_a_damaged_export_is_named(copy: Path, file: str, content: str, message: str) -> None:
    (copy / file).write_text(content)
    if file != checksums.FILE:
        if file == "calibration.json":
            refused(copy, f"{file} differs from SHA256SUMS")
        checksums.write(copy)
    refused(copy, str(copy / file), message)


@pytest.mark.parametrize("count", [24, pytest.param(500, marks=pytest.mark.campaign)])
def test_no_flipped_byte_of_an_export_goes_unseen(copy: Path, count: int, seed: int) -> None:
    """One byte at a time, anywhere in what our commands read."""
    rng = random.Random(seed)
    files = [copy / name for name in checksums.read(copy) if not name.startswith(folder.FOR_OTHERS)]
    files = [file for file in files if file.name != folder.CARD and file.stat().st_size]
    rng.shuffle(files)
    for turn in range(count):
        file = files[turn] if turn < len(files) else rng.choice(files)
        sound = file.read_bytes()
        changed = bytearray(sound)
        changed[rng.randrange(len(changed))] ^= rng.randrange(1, 256)
        file.write_bytes(changed)
        with pytest.raises(UserError, match=str(copy)):
            open_trained(copy)
        file.write_bytes(sound)
    open_trained(copy)


def test_what_is_added_to_an_export_is_not_read(copy: Path) -> None:
    (copy / "LICENSE").write_text("Any.")
    (copy / folder.CARD).write_text("# A card, edited.")
    runs.load_run(copy)
    (copy / "orbax" / "more").write_text("")
    refused(copy, str(copy), "orbax/more differs from SHA256SUMS", "copy the whole folder again")


def test_what_cannot_be_exported_leaves_nothing(made: Made, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a trained workdir or an export"):
        export.export(tmp_path / "none", tmp_path / "out")
    workdir = Path(shutil.copytree(made("clip")[0], tmp_path / "run"))
    # The last file fails to be written.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_card, "render", lambda facts: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export.export(workdir, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
