"""Our captions as questions and answers for other trainers, and back."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline import captions
from data_pipeline.convert import questions
from data_pipeline.convert.records import RecordFields, read_records
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL, REGIONS, TYPES

forged = st.dictionaries(
    st.sampled_from(REGIONS), st.lists(st.sampled_from(TYPES), unique=True, max_size=2)
)
pairs = st.lists(
    st.tuples(
        forged, st.sampled_from(["a", "b", "c", None]), st.booleans(), st.sampled_from(["train", "test"])
    ),
    min_size=1, max_size=8,
)  # fmt: skip


def write_lines(folder: Path, drawn: list[tuple[Any, ...]]) -> Path:
    """Lines of fakes with a real, that fakes share, or none; and of reals alone."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number, (regions, real, alone, split) in enumerate(drawn):
        alone = alone and real is not None
        fake = None if alone else f"fake/{number} ü.png"
        flags = {r: {"forged": r in regions, "types": regions.get(r, [])} for r in REGIONS}
        text = captions.caption(*((REAL, {}) if alone else (FAKE, regions)), seed=number)
        lines.append(
            {"id": f"n{number}", "real": real and f"real/{real}.png", "fake": fake, "split": split,
             "label": int(not alone), "caption": text, "error": None}
            | ({} if alone else {"regions": flags})
        )  # fmt: skip
        for name in filter(None, (lines[-1]["real"], fake)):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).touch()
    file = folder / "annotations.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@settings(deadline=None, max_examples=60)
@given(drawn=pairs, form=st.sampled_from(questions.FORMS))
def test_a_round_trip_keeps_picture_label_words_and_id(
    drawn: list[tuple[Any, ...]], form: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "trip"
    examples, left_out = questions.read_examples(write_lines(folder, drawn))
    assert not left_out
    assert len({example.image for example in examples}) == len(examples)
    file = folder / "questions.json"
    file.write_text(questions.document(examples, form, folder))
    back = folder / "back.jsonl"
    back.write_text(read_records(file, folder, back, form, RecordFields()).text())
    again, _ = questions.read_examples(back)
    assert again == examples
    assert questions.document(again, form, folder) == file.read_text()


def test_the_files_have_the_fields_that_trainers_read(tmp_path: Path) -> None:
    file = write_lines(tmp_path, [({"mouth": ["blur"]}, "a", False, "train")])
    examples, _ = questions.read_examples(file)
    llava, real = json.loads(questions.document(examples, "llava", tmp_path))
    assert (llava["id"], llava["image"], llava["label"]) == ("n0", "fake/0 ü.png", "fake")
    assert (real["id"], real["image"], real["label"]) == ("n0/real", "real/a.png", "real")
    human, gpt = llava["conversations"]
    assert human == {"from": "human", "value": f"<image>\n{questions.QUESTION}"}
    assert gpt["from"] == "gpt"
    assert "fake face" in gpt["value"]
    share = json.loads(questions.document(examples, "sharegpt", tmp_path))[0]
    assert share["images"] == [llava["image"]]
    assert share["conversations"] == llava["conversations"]
    with pytest.raises(UserError, match=r"is outside of .*give the folder that holds all pictures"):
        questions.document(examples, "llava", tmp_path / "fake")


@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 5), st.randoms())
def test_balance_is_even_ordered_and_the_same_in_any_order(
    labels: list[bool], seed: int, random: Any
) -> None:
    examples = [
        questions.Example(str(n), Path(f"{n}.png"), int(v), "x") for n, v in enumerate(labels)
    ]
    counts = Counter(labels)
    if len(counts) < 2:
        with pytest.raises(UserError, match="both are needed"):
            questions.balanced(examples, seed)
        return
    kept = questions.balanced(examples, seed)
    assert Counter(example.label for example in kept) == dict.fromkeys((0, 1), min(counts.values()))
    assert kept == sorted(kept, key=lambda example: int(example.id))
    shuffled = random.sample(examples, len(examples))
    assert {e.id for e in questions.balanced(shuffled, seed)} == {e.id for e in kept}


def test_a_split_failed_lines_and_wrong_lines(tmp_path: Path) -> None:
    file = write_lines(tmp_path, [({}, "a", False, "train"), ({}, "b", False, "test")])
    with file.open("a") as lines:
        lines.write(json.dumps({"id": "x", "error": "no_face: none", "caption": None}) + "\n")
    examples, left_out = questions.read_examples(file, "test")
    assert [example.id for example in examples] == ["n1", "n1/real"]
    assert left_out == {"no_face": 1}
    with pytest.raises(UserError, match="no annotation with a caption of split validation"):
        questions.read_examples(file, "validation")
    with file.open("a") as lines:
        lines.write(json.dumps({"id": "y", "real": "r.png", "fake": "f.png"}) + "\n")
    with pytest.raises(UserError, match=r"annotations.jsonl, annotation 'y': has no caption"):
        questions.read_examples(file)
