"""Recipes (config files) that fail: one line with the recipe's file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import tiny

HELPER = "def helper():\n    return 1 / 0\n\n\n"


@pytest.mark.parametrize(
    ("text", "line", "error"),
    [
        (f"{HELPER}def get_config():\n    return helper()\n", 2, "ZeroDivisionError: division by zero"),
        ("def get_config():\n    raise OSError('x')\n", 2, "OSError: x"),
        ("def get_config():\n    raise KeyError('x')\n", 2, "KeyError: 'x'"),
        ("def get_config():\n    return int('x')\n", 2, "ValueError: invalid literal"),
        ("def get_config():\n    import sys\n    sys.exit(0)\n", 3, "SystemExit: 0"),
        ("\nimport nowhere\n", 2, "ModuleNotFoundError: No module named 'nowhere'"),
        ("def get_config(\n", 1, "SyntaxError: '(' was never closed"),
    ],
)  # fmt: skip
def test_a_recipe_that_fails_is_named_with_its_line(
    tmp_path: Path, text: str, line: int, error: str
) -> None:
    recipe = tmp_path / "recipe"
    recipe.write_text(text)
    done = tiny.command("launch.train", f"--config={recipe}", f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {recipe}, line {line}: {error}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_recipe_with_a_null_byte_is_one_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_bytes(b"\0")
    done = tiny.command("launch.train", f"--config={recipe}", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_sweep_that_fails_is_named_with_its_line(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.py"
    text = (tiny.ROOT / "configs/demo.py").read_text().partition("def get_sweep")[0]
    recipe.write_text(f"{text}\n\ndef get_sweep():\n    return {{}}['x']\n")
    done = tiny.command(
        "launch.sweep", f"--config={recipe}", f"--workdir={tmp_path / 'run'}", "--list"
    )
    line = recipe.read_text().count("\n")
    assert done.stderr == f"error: {recipe}, line {line}: KeyError: 'x'\n"
    assert done.returncode == 1
