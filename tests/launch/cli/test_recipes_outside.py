"""`--config=configs/NAME.py` where that file is missing: the recipe that is installed."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from launch.cli import command
from tests.support import tiny

FLAG = "--config=configs/demo.py"


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A working directory that is not a checkout, and a command that has a `--config`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command.flags, "FLAGS", {"config": None})
    return tmp_path


def test_an_installed_recipe_is_named_as_in_a_checkout(seen: Path) -> None:
    for name, before, after in itertools.product(
        sorted(path.name for path in (tiny.ROOT / "configs").glob("[a-z]*.py")),
        ("--config=", "-config="), ("", ":x", ":a/b.py"),
    ):  # fmt: skip
        installed = f"{tiny.ROOT / 'configs' / name}{after}"
        assert command._with_packaged_recipe(["train", f"{before}configs/{name}{after}"]) == [
            "train", f"{before}{installed}"
        ]  # fmt: skip
        given = ["train", before.rstrip("="), f"configs/{name}{after}"]
        assert command._with_packaged_recipe(given) == [*given[:2], installed]


@pytest.mark.parametrize(
    "argument",
    [
        "--config=configs/none.py", "--config=configs/../configs/demo.py", "--config=/configs/demo.py",
        "--config=x/configs/demo.py", "configs/demo.py", "--configs=configs/demo.py", "--config=demo.py",
        "--workdir=configs/demo.py", "--config.data.train=configs/demo.py",
    ],
)  # fmt: skip
def test_other_arguments_stay_as_they_are(argument: str, seen: Path) -> None:
    assert command._with_packaged_recipe(["train", argument]) == ["train", argument]


def test_a_recipe_of_the_user_comes_first(seen: Path) -> None:
    (seen / "configs").mkdir()
    (seen / "configs" / "demo.py").write_text("")
    assert command._with_packaged_recipe(["train", FLAG]) == ["train", FLAG]


def test_a_command_without_a_config_is_left_alone(
    seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command.flags, "FLAGS", {})
    assert command._with_packaged_recipe(["predict", FLAG]) == ["predict", FLAG]


def test_a_sweep_lists_its_runs_outside_a_checkout(tmp_path: Path) -> None:
    done = tiny.command("launch.sweep", FLAG, "--workdir=runs", "--list", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "captions=raw" in done.stdout
