"""Imports point down only, from room to room; `--help` loads nothing heavy; no file grows beyond reading."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tiny

ROOT = tiny.ROOT
PACKAGES = ("benchmarks", "configs", "data_pipeline", "jax_vlffd", "launch")
FILES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
COMMANDS = sorted(
    f"launch.{file.stem}"
    for file in (ROOT / "launch").glob("*.py")
    if 'if __name__ == "__main__"' in file.read_text()
)
HEAVY = (
    "jax", "flax", "optax", "orbax", "grain", "tensorflow_datasets", "tensorflow", "transformers",
    "torch", "cv2", "sklearn", "openai", "scipy", "matplotlib", "pandas", "av", "jinja2",
)  # fmt: skip

#: What each package may import of ours.
ALLOWED: dict[str, tuple[str, ...]] = {
    "benchmarks": PACKAGES,
    "launch": ("launch", "configs", "data_pipeline", "jax_vlffd"),
    "configs": (
        "configs",
        "data_pipeline.loading.settings",
        "jax_vlffd.config",
        "jax_vlffd.clip.config",
    ),
    "data_pipeline": (
        "data_pipeline",
        "jax_vlffd.clauses",
        "jax_vlffd.errors",
        "jax_vlffd.file_writing",
        "jax_vlffd.files",
        "jax_vlffd.hub",
        "jax_vlffd.json_reading",
        "jax_vlffd.jsonl",
        "jax_vlffd.preprocessing",
        "jax_vlffd.settings",
        "jax_vlffd.vocabulary",
    ),
    "jax_vlffd": ("jax_vlffd",),
}
#: The one module outside its package that may import the benches: their door.
DOOR = "launch/bench.py"
#: The rooms of each package, from the ground floor up: a room may import those before it. Modules that lie at
#: the top of a package are rooms of their own.
FLOORS: dict[str, tuple[str, ...]] = {
    "jax_vlffd": (
        "errors", "signals", "clauses", "vocabulary", "settings", "preprocessing", "json_reading",
        "files", "file_writing", "jsonl", "hub",
        "path_containment", "checksums", "clip", "config", "geometry", "model", "losses", "evaluation",
        "explanation", "training", "export", "inference", "reports", "compilation",
    ),
    "data_pipeline": (
        "core", "captions", "datasets", "faces", "synthetic", "fftg", "preparation", "packed", "convert",
        "loading",
    ),
    "launch": (
        "cli", "experiment", "annotation", "evaluation", "prediction", "sweeps", "compilation", "(commands)",
    ),
}  # fmt: skip
#: What it may not import of others', at any depth: no worker of the data pipeline starts JAX.
REFUSED: dict[str, tuple[str, ...]] = {
    "benchmarks": (),
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
    ("package", "text", "result"),
    [
        ("data_pipeline", "from jax_vlffd import config", ["jax_vlffd.config"]),
        ("data_pipeline", "from jax_vlffd import vocabulary", []),
        ("data_pipeline", "from jax_vlffd.vocabulary import REGIONS", []),
        ("data_pipeline", "from jax_vlffd.preprocessing import square_view", []),
        ("data_pipeline", "def f():\n    import jax.numpy as jnp", ["jax.numpy"]),
        ("jax_vlffd", "from data_pipeline.captions import Writer", ["data_pipeline.captions"]),
        ("jax_vlffd", "from .clip import config", [".clip"]),
        ("configs", "import jax_vlffd.training.step", ["jax_vlffd.training.step"]),
        ("launch", "from tests.support import tiny", ["tests.support.tiny"]),
    ],
)
def test_a_wrong_import_is_found(package: str, text: str, result: list[str]) -> None:
    assert faults(package, text) == result


def room(module: str) -> str:
    """The room of a dotted module of ours; the commands of `launch` are one."""
    package, _, rest = module.partition(".")
    name = rest.partition(".")[0]
    return "(commands)" if package == "launch" and name not in FLOORS["launch"] else name


@pytest.mark.parametrize("package", FLOORS)
def test_rooms_import_only_rooms_below_them(package: str) -> None:
    floor = {name: number for number, name in enumerate(FLOORS[package])}
    wrong = []
    for file in sorted((ROOT / package).rglob("*.py")):
        own = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if own == package:  # its public names, loaded when they are asked for
            continue
        for module in imports(file.read_text()):
            if module.startswith(f"{package}.") and floor[room(module)] > floor[room(own)]:
                wrong.append(f"{own} -> {module}")
    assert not wrong


#: Folders within a room, and what within the package they may import beside what lies in them.
INNER = {
    "data_pipeline.fftg.measure": ("data_pipeline.core", "data_pipeline.faces"),
    "data_pipeline.fftg.refine": (
        "data_pipeline.core", "data_pipeline.captions", "data_pipeline.fftg.measure",
    ),
}  # fmt: skip


@pytest.mark.parametrize("folder", INNER)
def test_a_folder_within_a_room_imports_only_below(folder: str) -> None:
    allowed = (folder, *INNER[folder])
    wrong = [
        f"{file.name} -> {module}"
        for file in ROOT.joinpath(*folder.split(".")).rglob("*.py")
        for module in imports(file.read_text())
        if module.startswith("data_pipeline.") and not module.startswith(allowed)
    ]
    assert not wrong


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {}
    for file in FILES:
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = set(imports(file.read_text())) - {name}
    order = graphlib.TopologicalSorter(
        {name: imported & graph.keys() for name, imported in graph.items() if "." in name}
    )
    order.prepare()  # raises CycleError, which names them


def test_every_room_has_a_floor() -> None:
    for package, rooms in FLOORS.items():
        there = {f.stem for f in (ROOT / package).glob("*.py")} - {"__init__"}
        folders = {f.parent.name for f in (ROOT / package).glob("*/__init__.py")}
        commands = {name.partition(".")[2] for name in COMMANDS} if package == "launch" else set()
        assert there - commands | folders == set(rooms) - {"(commands)"}


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    wrong = {
        str(file.relative_to(ROOT)): result
        for file in FILES
        if file.is_relative_to(ROOT / package) and (result := faults(package, file.read_text()))
    }
    door = wrong.pop(DOOR, [])
    assert all(module.startswith("benchmarks.") for module in door)
    assert not wrong


def test_nothing_imports_a_command() -> None:
    """Commands share names of flags, so that two cannot be in one process; what others want lies beside."""
    wrong = {
        str(file.relative_to(ROOT)): result
        for file in (*FILES, *TESTS)
        if (result := set(imports(file.read_text())) & set(COMMANDS))
    }
    assert not wrong


def test_the_rooms_below_the_commands_take_plain_arguments() -> None:
    """Flags are the commands'; what a pod's processes share, and the running of a command, define their own."""
    with_flags = {
        str(file.relative_to(ROOT / "launch"))
        for file in (ROOT / "launch").glob("*/*.py")
        if any(module.startswith("absl") for module in imports(file.read_text()))
    }
    assert with_flags == {"cli/command.py", "experiment/distributed.py"}


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
