"""What lies beside the modules (templates, prompts) is in the wheel too."""

from __future__ import annotations

import tomllib

import pytest

from tests.support.tiny import ROOT

PACKAGES = ("configs", "data_pipeline", "jax_vlffd", "launch")
TEXTS = sorted(
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in (ROOT / package).rglob("*")
    if path.is_file() and path.suffix not in (".py", ".pyc")
)


@pytest.mark.parametrize("path", TEXTS, ids=str)
def test_a_text_beside_a_module_is_package_data(path) -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert any(
        path.is_relative_to(package.replace(".", "/"))
        and path.relative_to(package.replace(".", "/")).match(pattern)
        for package, patterns in tables["package-data"].items()
        for pattern in patterns
    )


def test_there_are_templates_and_prompts() -> None:
    assert {".j2", ".txt"} <= {path.suffix for path in TEXTS}
