"""The model card of an export, and the evaluation that it quotes."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from jax_vlffd.reports import model_card
from launch.experiment import export
from launch.experiment import workdir as runs
from tests.support.tiny_export import Made


@pytest.mark.slow
def test_the_card_has_data_metrics_calibration_use_and_limits(made: Made, packed: Path) -> None:
    workdir, _ = made("clip")
    run = runs.load_run(workdir)
    metrics = {
        "detector": "a|b", "split": "test",
        "sets": {"seen": {
            "frame_auc": 0.9, "intervals": {"frame_auc": [0.85, 0.95]},
            "counts": {"frames_real": 3, "frames_fake": 4, "videos_real": 1, "videos_fake": 2},
            "methods": {"Deepfakes": {"frame_auc": 0.8}},
        }},
    }  # fmt: skip
    cards = {str(packed): json.loads((packed / "data_card.json").read_text()), "gone": None}
    facts = model_card.Facts(
        "m", "clip", run.config, 3, ["hf/"], {}, run.calibration, cards, metrics
    )  # fmt: skip
    text = model_card.render(facts)
    assert text.startswith("---\nlibrary_name: jax\n")
    assert "| seen | 0.900 [0.850, 0.950] | - |" in text
    assert "| seen, Deepfakes | 0.800 |" in text
    assert "| 7 (3) |" in text
    assert "a\\|b" in text
    assert "| train | drawn | Deepfakes | fake | 8 |" in text
    assert "- gone: the packed set was not there" in text
    assert "divided by 1.3." in text
    for title in ("Intended use", "Limits", "Ethics", "Settings", "Files", "Calibration"):
        assert f"\n## {title}\n" in text
    bare = model_card.render(dataclasses.replace(facts, metrics=None, calibration=None))
    assert "No evaluation on a test set came with this export" in bare
    assert "None was fitted" in bare


WORDS = (
    "</table><script>x()</script>", "![x](http://tracker/p.png)", "a|b", "`code`", "\n---\ntags: [x]\n# Head",
    "https://phish.example", "<!-- ", "\x1b[2J\u202eevil", "[t](javascript:x)", "*" * 10_000, "$x$", "@someone",
    "www.phish.example",
)  # fmt: skip


@pytest.mark.parametrize("text", WORDS)
def test_texts_of_files_are_only_text_in_the_card(text: str, made: Made) -> None:
    run = runs.load_run(made("clip")[0])
    row = {"dataset": text, "method": text, "label": text, "records": text}
    data = {text: {
        "records": text, "splits": {text: {"by_method": [row, text]}, "x": text, "y": {"by_method": None}},
        "split_rule": text, "fakes_by_caption_source": {text: text},
    }}  # fmt: skip
    part = {
        "frame_auc": text,
        "ap": 0.5,
        "intervals": {"ap": [text, 1]},
        "counts": {"frames_real": text},
    }
    metrics = {"sets": {text: {**part, "methods": {text: part}}}, "split": text, "detector": text}
    config = json.loads(json.dumps(run.config))
    config["init"]["clip"] = text
    summary = {"parameters": text, "validation": {text: text, "auc": 0.5}}

    def rendered(word: str, evaluation: dict | None) -> str:
        def put(value: object) -> object:
            return json.loads(json.dumps(value).replace(json.dumps(text)[1:-1], word))

        facts = model_card.Facts(
            put(text), "clip", put(config), 3, ["hf/"], put(summary), None, put(data),
            evaluation and put(evaluation), "", [put(text)],
        )  # fmt: skip
        return model_card.render(facts).partition("\n## Settings")[0]

    for evaluation in (metrics, None):
        shown, expected = (
            rendered(json.dumps(text)[1:-1], evaluation),
            rendered("plain", evaluation),
        )
        # Nothing but the words themselves differs: same lines, same cells, same tags and links.
        assert len(shown.splitlines()) == len(expected.splitlines())
        assert len(shown) < len(expected) + 20 * 450
        for mark in ("<", "](", "://", "\x1b", "\u202e", "@", "www."):
            assert shown.count(mark) == expected.count(mark), mark
        for mark in ("|", "`", "*", "[", "$", "!"):
            assert re.sub(r"\\.", "", shown).count(mark) == expected.count(mark), mark


def test_a_file_that_is_not_a_metrics_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("[]")
    with pytest.raises(Exception, match=r"not a metrics.json of launch.evaluate"):
        export.evaluation_of(tmp_path, str(tmp_path / "metrics.json"))
    assert export.evaluation_of(tmp_path, None) is None


def test_an_evaluation_in_the_workdir_is_quoted(tmp_path: Path) -> None:
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "metrics.json").write_text('{"sets": {}}')
    assert export.evaluation_of(tmp_path, None) == {"sets": {}}


def test_the_card_says_how_pictures_were_prepared(made: Made, packed: Path) -> None:
    run = runs.load_run(made("clip")[0])
    card = json.loads((packed / "data_card.json").read_text())
    config = json.loads(json.dumps(run.config))
    config["data"]["augment"] |= {"jpeg": 0.3, "jpeg_quality": [40, 95], "blur": 0}
    facts = model_card.Facts("m", "clip", config, 3, ["hf/"], data={"set": card})
    text = model_card.render(facts)
    assert "| Resizing | with antialiasing" in text
    assert "mean 0.4815, 0.4578, 0.4082" in text
    assert "| JPEG in training, quality | of 30 % of the pictures, 40 to 95 |" in text
    assert "| Blur in training, sigma in px | none |" in text
    pictures = {(row["label"], row["format"]): row["records"] for row in card["pictures"]}
    assert sum(pictures.values()) == card["records"]
    for (label, kind), count in pictures.items():
        assert f"| {label} | {kind} | {count} |" in text
    del config["model"]["resize"], config["data"]["augment"], card["pictures"]  # of older versions
    older = model_card.render(dataclasses.replace(facts, config=config))
    assert "leaves out the last rows" in older
    assert "| JPEG in training, quality | not recorded |" in older
    assert "as stored" not in older
