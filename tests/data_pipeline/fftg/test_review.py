"""The review page: its content, and that no script but its own runs on it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from data_pipeline.fftg.measure.difference_mask import PairError
from data_pipeline.fftg.review import Pictures, outlined, write_review
from jax_vlffd.vocabulary import REGIONS, TYPES

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>@CARDS@@SCRIPT@'


class Page(HTMLParser):
    """Tags with their attributes, texts, and cards."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def line(number: int, **changes: Any) -> dict[str, Any]:
    evidence = {kind: {"score": 1.25, "threshold": 1.0, "margin": 0.25} for kind in TYPES}
    regions = {
        name: {"forged": name == "mouth", "score": 0.123, "types": [], "evidence": evidence}
        for name in REGIONS
    }
    regions["mouth"]["types"] = ["blur", "color"]
    return {
        "id": f"pair{number}",
        "real": f"r{number}.png",
        "fake": f"f{number}.png",
        "label": 1,
        "regions": regions,
        "caption": "The mouth is blurry.",
        "raw_caption": "The mouth looks blurry.",
        "source": "refined",
        "error": None,
    } | changes


def show(line: Mapping[str, Any]) -> Pictures | None:
    if line["id"] == "broken":
        raise PairError("unreadable_image", HOSTILE)
    if line.get("fake") is None:
        return None
    image = np.full((60, 40, 3), 120, np.uint8)
    labels = np.zeros((60, 40), np.uint8)
    labels[30:50, 10:30] = 1 + REGIONS.index("mouth")
    labels[5:15, 5:35] = 1 + REGIONS.index("eyes")
    return Pictures(image, image // 2, np.full((60, 40), 0.1), labels)


def page_of(tmp_path: Path, lines: list[dict[str, Any]], **how: Any) -> tuple[Page, str]:
    path = tmp_path / "review.html"
    assert write_review(lines, path, show, **how) == min(len(lines), how.get("sample", 100))
    text = path.read_text()
    return Page(text), text


def test_shows_pictures_words_and_evidence(tmp_path: Path) -> None:
    page, _ = page_of(tmp_path, [line(0), line(1, source="raw"), line(2, fake=None, label=0)])
    pictures = page.all("img")
    assert [picture["alt"] for picture in pictures] == ["real", "fake", "mask x4", "regions"] * 2
    for picture in pictures:
        data = base64.b64decode((picture["src"] or "").removeprefix("data:image/jpeg;base64,"))
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image.shape == (224, 149, 3)
    cards = page.all("article")
    assert [card["data-source"] for card in cards] == ["refined", "raw", "refined"]
    assert cards[0]["data-regions"] == "mouth"
    assert cards[0]["data-types"] == "blur color"
    for text in ("The mouth is blurry.", "The mouth looks blurry.", "pair0", "1.25 / 1", "0.123"):
        assert text in page.text


def test_filters_offer_every_region_type_and_source(tmp_path: Path) -> None:
    page, text = page_of(tmp_path, [line(0)])
    assert [select["name"] for select in page.all("select")] == ["regions", "types", "source"]
    for name in (*REGIONS, *TYPES, "raw", "refined", "fallback", "error"):
        assert f"<option>{name}</option>" in text


@pytest.mark.parametrize(
    "where",
    ["id", "real", "fake", "caption", "raw_caption", "source", "error", "method", "refinement"],
)
def test_no_text_becomes_markup(tmp_path: Path, where: str) -> None:
    hostile: Any = {"reason": HOSTILE} if where == "refinement" else HOSTILE
    page, text = page_of(tmp_path, [line(0, **{where: hostile})])
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 4
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert HOSTILE in page.text
    policy = re.search(r"script-src 'sha256-([^']+)'", text)
    script = re.search(r"<script>(.*)</script>", text, re.DOTALL)
    assert policy
    assert script
    digest = hashlib.sha256(script[1].encode()).digest()
    assert policy[1] == base64.b64encode(digest).decode()


@pytest.mark.parametrize("where", ["types", "region", "evidence", "score", "forged"])
def test_no_text_of_a_region_becomes_markup(tmp_path: Path, where: str) -> None:
    hostile = line(0)
    region = hostile["regions"]["mouth"]
    if where == "region":
        hostile["regions"][HOSTILE] = region
    elif where == "evidence":
        region["evidence"] = {HOSTILE: HOSTILE, "mask": {"score": HOSTILE, HOSTILE: HOSTILE}}
    else:
        region[where] = [HOSTILE, "blur"] if where == "types" else HOSTILE
    page, _ = page_of(tmp_path, [hostile])
    assert len(page.all("script")) == 1
    assert len(page.all("img")) == 4
    assert all(not name.startswith("on") for _, attrs in page.tags for name in attrs)
    assert "blur" in (page.all("article")[0]["data-types"] or "")


FIELDS = ("id", "real", "fake", "mask", "regions", "refinement", "source", "caption", "error")
ODD = (
    "text", ["a"], 5, 1.5, True, [["blur"]], {"mouth": "x"}, {"mouth": {"forged": 1, "types": 7}},
)  # fmt: skip


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("where", FIELDS)
def test_a_field_of_another_type_does_not_break_the_page(
    tmp_path: Path, where: str, value: Any
) -> None:
    page, _ = page_of(tmp_path, [line(0, **{where: value}), line(1)])
    assert "pair1" in page.text


def test_an_error_in_one_line_does_not_hide_the_others(tmp_path: Path) -> None:
    def broken(line: Mapping[str, Any]) -> Pictures | None:
        if line["id"] == "pair0":
            raise RuntimeError("the decoder failed")
        return show(line)

    write_review([line(0), line(1)], tmp_path / "review.html", broken)
    page = Page((tmp_path / "review.html").read_text())
    assert "the decoder failed" in page.text
    assert len(page.all("img")) == 4


def test_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    _, text = page_of(tmp_path, [line(0)])
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|<link|src=\"(?!data:)", text)


def test_a_pair_that_cannot_be_shown_says_why(tmp_path: Path) -> None:
    lines = [line(0, id="broken"), line(1, caption="", error="no_face: none", regions={})]
    page, _ = page_of(tmp_path, lines)
    assert len(page.all("script")) == 1
    assert "unreadable_image" in page.text
    assert "no_face: none" in page.text
    assert page.all("article")[1]["data-source"] == "error"


def test_the_sample_follows_from_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    lines = [line(number, fake=None) for number in range(50)]

    def ids(seed: int) -> list[int]:
        page, _ = page_of(tmp_path, lines, sample=10, seed=seed)
        return [int(n) for n in re.findall(r"pair(\d+)", page.text)]

    assert ids(1) == ids(1) == sorted(ids(1))
    assert len(ids(1)) == 10
    assert ids(1) != ids(2)


def test_outlines_are_red_where_forged() -> None:
    pictures = show(line(0))
    assert pictures is not None
    drawn = outlined(pictures.real, pictures.labels, {"mouth"})
    changed = (drawn != pictures.real).any(axis=2)
    red = (drawn == (255, 40, 40)).all(axis=2)
    assert red.any()
    assert changed.sum() > red.sum() > 0
    assert red[30:50, 10:30].sum() > 60
    assert not red[:20].any()
    assert set(np.unique(pictures.labels[changed & ~red])) == {1 + REGIONS.index("eyes")}
    assert (pictures.real == 120).all()


def test_an_untouched_organ_in_a_forged_face_keeps_its_own_line() -> None:
    labels = np.zeros((60, 60), np.uint8)
    labels[5:55, 5:55] = 1 + REGIONS.index("face")
    labels[20:30, 20:40] = 1 + REGIONS.index("eyes")
    drawn = outlined(np.full((60, 60, 3), 120, np.uint8), labels, {"face"})
    red = (drawn == (255, 40, 40)).all(axis=2)
    assert red[5, 5:55].all()
    assert not red[10:50, 10:50].any()
