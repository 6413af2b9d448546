"""Imports point down only, `--help` loads nothing heavy, and no file grows beyond reading."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tiny

ROOT = tiny.ROOT
PACKAGES = ("configs", "data_pipeline", "jax_vlffd", "launch")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
COMMANDS = sorted(
    f"launch.{file.stem}"
    for file in (ROOT / "launch").glob("*.py")
    if 'if __name__ == "__main__"' in file.read_text()
)
HEAVY = (
    "jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "tensorflow", "transformers",
    "torch", "cv2", "sklearn", "openai",
)  # fmt: skip

#: What each package may import of ours.
ALLOWED: dict[str, tuple[str, ...]] = {
    "launch": ("launch", "configs", "data_pipeline", "jax_vlffd"),
    "configs": (
        "configs",
        "data_pipeline.loading.settings",
        "jax_vlffd.config",
        "jax_vlffd.clip.config",
    ),
    "data_pipeline": ("data_pipeline", "jax_vlffd.vocabulary", "jax_vlffd.preprocessing"),
    "jax_vlffd": ("jax_vlffd",),
}
#: What it may not import of others', at any depth: no worker of the data pipeline starts JAX.
REFUSED: dict[str, tuple[str, ...]] = {
    "launch": (),
    "configs": HEAVY,
    "data_pipeline": ("jax", "flax", "optax", "orbax", "tensorflow", "torch"),
    "jax_vlffd": ("grain", "tensorflow_datasets", "tensorflow", "torch", "absl", "ml_collections"),
}


def imports(text: str) -> Iterator[str]:
    """Every module that a source imports anywhere; of `from a import b`, `a.b` where that is a module."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                inner = ROOT.joinpath(*module.strip(".").split("."), alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{module}.{alias.name}" if is_module else module


def faults(package: str, text: str) -> list[str]:
    """The imports that a source of `package` may not have."""

    def within(module: str, names: tuple[str, ...]) -> bool:
        return any(module == name or module.startswith(f"{name}.") for name in names)

    return [
        module
        for module in imports(text)
        if (within(module, (*PACKAGES, "tests", "")) and not within(module, ALLOWED[package]))
        or within(module, REFUSED[package])
    ]


def loaded_by(module: str) -> set[str]:
    """Every module that is there once this one is imported."""
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, env=tiny.environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout))


def test_the_files_are_found() -> None:
    assert {file.relative_to(ROOT).parts[0] for file in FILES} == set(PACKAGES)
    assert {"launch.train", "launch.evaluate", "launch.annotate", "launch.pack"} <= set(COMMANDS)


@pytest.mark.parametrize(
    ("package", "text", "found"),
    [
        ("data_pipeline", "from jax_vlffd import config", ["jax_vlffd.config"]),
        ("data_pipeline", "from jax_vlffd import vocabulary", []),
        ("data_pipeline", "from jax_vlffd.vocabulary import REGIONS", []),
        ("data_pipeline", "from jax_vlffd.preprocessing import square_view", []),
        ("data_pipeline", "def f():\n    import jax.numpy as jnp", ["jax.numpy"]),
        ("jax_vlffd", "from data_pipeline.errors import UserError", ["data_pipeline.errors"]),
        ("jax_vlffd", "from .clip import config", [".clip"]),
        ("configs", "import jax_vlffd.training.step", ["jax_vlffd.training.step"]),
        ("launch", "from tests import tiny", ["tests.support.tiny"]),
    ],
)
def test_a_wrong_import_is_found(package: str, text: str, found: list[str]) -> None:
    assert faults(package, text) == found


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    wrong = {
        str(file.relative_to(ROOT)): found
        for file in FILES
        if file.is_relative_to(ROOT / package) and (found := faults(package, file.read_text()))
    }
    assert not wrong


def test_nothing_imports_a_command() -> None:
    """Commands share names of flags, so that two cannot be in one process; what others want lies beside."""
    wrong = {
        str(file.relative_to(ROOT)): found
        for file in (*FILES, *TESTS)
        if (found := set(imports(file.read_text())) & set(COMMANDS))
    }
    assert not wrong


@pytest.mark.parametrize("module", [m for m in ALLOWED["data_pipeline"] if "." in m])
def test_what_the_data_pipeline_has_of_the_model_starts_no_jax(module: str) -> None:
    assert not set(REFUSED["data_pipeline"]) & loaded_by(module)


@pytest.mark.parametrize("module", [*COMMANDS, "launch.experiment.config", "configs.demo"])
def test_nothing_heavy_is_loaded_before_the_flags_are_parsed(module: str) -> None:
    assert not set(HEAVY) & loaded_by(module)


@pytest.mark.parametrize("module", COMMANDS)
def test_help_is_a_success(module: str, tmp_path: Path) -> None:
    done = tiny.command(module, "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "flags:" in done.stdout
    assert not list(tmp_path.iterdir())


def test_no_file_is_too_long_to_read() -> None:
    long = {
        str(f.relative_to(ROOT)): n
        for f in (*FILES, *TESTS)
        if (n := len(f.read_text().splitlines())) > 400
    }
    assert not long
