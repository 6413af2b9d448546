"""Recipes (config files) that fail: one line with the recipe's file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import processes, tiny

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


@pytest.mark.parametrize("command", ["train", "compile", "sweep"])
@pytest.mark.parametrize(
    "value", ["3", "{}", "{'seed': 1}", "[]", "'x'", "(1,)", "object()", "get_config"]
)
def test_a_recipe_that_returns_something_else_is_one_line(
    command: str, value: str, tmp_path: Path
) -> None:
    recipe = tmp_path / "recipe.py"
    recipe.write_text(f"def get_config():\n    return {value}\n")
    out = {"compile": ["--topology=cpu:2", "--out=c.json"]}.get(command, ["--workdir=run"])
    done = processes.run(
        f"launch.{command}", [f"--config={recipe}", *out], tiny.environment(), tmp_path, 120
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith(f"error: {recipe}: get_config() returns a "), done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir() if path.name != "__pycache__"] == ["recipe.py"]


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
