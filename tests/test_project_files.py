"""CHANGELOG.md and CITATION.cff: they parse, and agree with pyproject.toml and the tree."""

from __future__ import annotations

import re
import tomllib
from itertools import pairwise

import pytest
import yaml

from tests.support.tiny import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text("utf-8")
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
VERSION = re.compile(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d")


def sections() -> dict[str, list[str]]:
    """The changelog's versions, newest first, with their kinds of changes."""
    result: dict[str, list[str]] = {}
    for marks, title in re.findall(r"^(##+) (.+)$", CHANGELOG, re.M):
        if marks == "##":
            assert title not in result
            result[title] = []
        else:
            assert marks == "###"
            result[list(result)[-1]].append(title)
    return result


def test_the_changelog_keeps_its_form() -> None:
    unreleased, *released = sections()
    assert unreleased == "[Unreleased]"
    for kinds in sections().values():
        assert kinds == [kind for kind in KINDS if kind in kinds]
    matches = [VERSION.fullmatch(title) for title in released]
    assert all(matches)
    numbers = [tuple(map(int, match.groups())) for match in matches if match]
    assert all(later > earlier for later, earlier in pairwise(numbers))


def test_the_changelog_knows_the_version() -> None:
    """It has a section once it is released; until then the text says that it is in preparation."""
    released = [title.partition("]")[0].strip("[") for title in list(sections())[1:]]
    assert (
        PROJECT["version"] in released[:1]
        or f"`{PROJECT['version']}` is in preparation" in CHANGELOG
    )


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`launch\.(\w+)", CHANGELOG))))
def test_commands_of_the_changelog_exist(name: str) -> None:
    assert (ROOT / "launch" / f"{name}.py").is_file()


def test_the_changelog_states_the_lowest_versions() -> None:
    """Of each package that its last line on versions names."""
    (text,) = re.findall(r"raised to those that pass the tests: (.+?)\.\n-? ?\n?", CHANGELOG, re.S)
    declared = (ROOT / "pyproject.toml").read_text("utf-8").lower()
    package = {"opencv": "opencv-python-headless"}
    for entry in " ".join(text.split()).split(", "):
        name, version = entry.lower().split(" ")
        assert f'"{package.get(name, name)}>={version}' in declared, entry


def test_the_citation_agrees_with_the_package() -> None:
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert content["cff-version"] == "1.2.0"
    assert content["type"] == "software"
    for key, value in {
        "title": PROJECT["name"], "version": PROJECT["version"], "license": PROJECT["license"],
        "abstract": PROJECT["description"], "keywords": PROJECT["keywords"],
    }.items():  # fmt: skip
        assert content[key] == value, key
    assert content["message"]
    assert content["authors"]


def test_the_citation_names_the_paper_as_the_readme_does() -> None:
    content = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    (paper,) = content["references"]
    readme = " ".join((ROOT / "README.md").read_text("utf-8").split())
    year, pages = paper["year"], f"{paper['start']}-{paper['end']}"
    assert f"*{paper['title']}*, CVPR {year}, pp. {pages}" in readme
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert "doi" not in paper
    assert len(paper["authors"]) == 8
    assert all(author["family-names"] and author["given-names"] for author in paper["authors"])
