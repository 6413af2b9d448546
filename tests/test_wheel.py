"""The wheel: it holds what the packages need at run time, and runs where there is no checkout."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.support import tiny
from tests.support.tiny import ROOT

PACKAGES = ("configs", "data_pipeline", "jax_vlffd", "launch")
NOT_PACKED = ("benchmarks", "docs", "tests")

#: The folders of the packages in the checkout, in which an environment may lie, too.
OWN = tuple(f"{ROOT / name}{os.sep}" for name in PACKAGES)
#: Runs a module, and at the end names what was imported from the checkout.
RUN = f"""
import atexit, runpy, sys
def from_checkout():
    files = [getattr(module, "__file__", None) or "" for module in list(sys.modules.values())]
    print("checkout:", sorted(f for f in files if f.startswith({OWN!r})), file=sys.stderr)
atexit.register(from_checkout)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's file, built of a copy, so that nothing is left in the checkout."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for folder in (*PACKAGES, *NOT_PACKED):
        kept = shutil.ignore_patterns("__pycache__", "fixtures", "results")
        shutil.copytree(ROOT / folder, source / folder, ignore=kept)
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.py"):
        shutil.copyfile(ROOT / name, source / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, out],
        cwd=source, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (file,) = out.iterdir()
    return file


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def test_every_file_of_the_packages_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    expected = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    described = {name: content for name, content in held.items() if ".dist-info/" in name}
    assert held.keys() - described.keys() == expected.keys()
    assert {name: held[name] for name in expected} == expected
    names = {name.partition(".dist-info/")[2] for name in described}
    assert names == {"METADATA", "RECORD", "WHEEL", "licenses/LICENSE", "top_level.txt"}
    assert {".j2", ".txt"} <= {Path(name).suffix for name in expected}


def test_the_wheel_asks_for_what_is_declared(unpacked: Path) -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (described,) = importlib.metadata.distributions(path=[str(unpacked)])
    assert described.version == declared["version"]
    assert described.metadata["License-Expression"] == declared["license"]
    required = [text for text in described.requires or () if "extra ==" not in text]
    assert len(required) == len(declared["dependencies"])


def outside(
    unpacked: Path, folder: Path, module: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command with the wheel and the installed libraries on its path, and no checkout.

    Without `site`, whose files may put a checkout there.
    """
    libraries = {sysconfig.get_paths()[key] for key in ("purelib", "platlib")}
    path = os.pathsep.join([str(unpacked), *sorted(libraries)])
    done = subprocess.run(
        [sys.executable, "-S", "-c", RUN, module, *arguments],
        cwd=folder, env=tiny.environment() | {"PYTHONPATH": path, "PYTHONNOUSERSITE": "1"},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "checkout: []" in done.stderr
    return done


@pytest.mark.slow
def test_a_packaged_recipe_trains_and_predicts_from_the_wheel(
    unpacked: Path, packed: Path, tmp_path: Path
) -> None:
    outside(
        unpacked, tmp_path, "launch.train", "--config=configs/demo.py", "--workdir=run",
        f"--config.data.train={packed}", f"--config.data.validation={packed}",
        "--config.data.batch_size=4", "--config.train.duration=1 steps",
        "--config.loss.local=0", "--config.loss.alignment=0", "--config.loss.fusion=0",
        "--config.train.tensorboard=False",
    )  # fmt: skip
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "face.png")
    outside(
        unpacked, tmp_path, "launch.predict", "--checkpoint=run", "--crops", "--out=out.jsonl",
        "--html=report.html", "face.png",
    )  # fmt: skip
    (line,) = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert 0 < line["probability"] < 1
    assert "face.png" in (tmp_path / "report.html").read_text()


#: Declared though no module of ours imports them, and why.
NOT_IMPORTED = {
    "dlib-bin": "its module has another name, dlib",
    "face-recognition-models": "only its data file is read",
    "flatbuffers": "jax.export imports it",
    "gcsfs": "fsspec imports it for gs://",
    "importlib-resources": "tensorflow-datasets imports it",
    "transformers": "reads what launch.export writes",
}
#: Imported though they are not declared: dlib is in dlib-bin; no MediaPipe that works installs beside NumPy 2.
NOT_DECLARED = {"dlib", "mediapipe"}


def test_what_the_packages_import_is_declared_and_nothing_else_is() -> None:
    """The extras `faces`, `annotate` and `gcs` count too; the others are those of tests and accelerators."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *extras["faces"], *extras["annotate"], *extras["gcs"]]
    declared = {re.split(r"[<>=\[;]", text)[0].lower().replace("_", "-") for text in texts}
    by_module = importlib.metadata.packages_distributions()
    imported: set[str] = set()
    for file in (file for package in PACKAGES for file in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            imported |= {name.split(".")[0] for name in names}
    imported -= {
        *sys.stdlib_module_names,
        *PACKAGES,
        "benchmarks",
        "_typeshed",
    }  # the last for checkers of types
    names_by_module = {
        name: {text.lower().replace("_", "-") for text in by_module.get(name, [name])}
        for name in imported
    }
    undeclared = {name for name, names in names_by_module.items() if not names & declared}
    assert undeclared == NOT_DECLARED
    assert declared - set().union(*names_by_module.values()) == NOT_IMPORTED.keys()
