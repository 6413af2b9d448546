"""Captions of others as annotation lines: lists of records, FFTG's files, DD-VQA's answers."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.convert.ddvqa import read_ddvqa
from data_pipeline.convert.lines import CaptionLines
from data_pipeline.convert.records import RecordFields, read_records
from data_pipeline.fftg import scoring
from data_pipeline.packed.annotation import Annotation, parse_line
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE

FAKE_WORDS = "This is a fake face. The mouth looks blurry."
ANSWERS = {
    "question": "Does the image looks real/fake?",
    "answer": ["The nose is odd.", "It is fake."],
}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def records(folder: Path, content: Any, **fields: Any) -> CaptionLines:
    file = write(folder / "FFTG_Deepfakes.json", content)
    return read_records(file, folder, folder / "out.jsonl", "fftg", RecordFields(**fields))


def parsed(lines: CaptionLines, folder: Path) -> list[Annotation]:
    result = [parse_line(text.encode(), folder / "out.jsonl") for text in lines.text().splitlines()]
    assert all(isinstance(line, Annotation) for line in result)
    return result  # type: ignore[return-value]


def test_every_form_of_a_record_is_read(tmp_path: Path) -> None:
    pictures(tmp_path, *(f"Deepfakes/000_003/{n}.png" for n in range(6)))
    at = "D:\\authors\\Deepfakes\\000_003\\"
    turns = [{"from": "human", "value": "<image>\nReal?"}, {"from": "gpt", "value": FAKE_WORDS}]
    chat = [{"role": "user", "content": "Real?"}, {"role": "assistant", "content": FAKE_WORDS}]
    lines = records(
        tmp_path,
        [
            {"image": f"{at}0.png", "caption": FAKE_WORDS, "method": "Deepfakes", "frame": 0},
            {"id": "one", "image": f"{at}1.png", "conversations": turns},
            {"images": [f"{at}2.png"], "messages": chat},
            {"image": f"{at}3.png", "caption": "All is well.", "label": "real"},
            {"image": f"{at}4.png", "caption": "This is a real face."},
            {"image": f"{at}5.png", "caption": "Odd eyes.", "label": 1},
            {"image": f"{at}0.png", "caption": "This is a fake face. And a second caption."},
            {"image": f"{at}gone.png", "caption": FAKE_WORDS},
            {"image": f"{at}..\\..\\..\\x.png", "caption": FAKE_WORDS},
        ],
    )
    result = parsed(lines, tmp_path)
    assert lines.left_out == {"picture not there": 2}
    assert [line.id for line in result][:2] == ["Deepfakes/000_003/0", "one"]
    assert result[0].captions == (FAKE_WORDS, "This is a fake face. And a second caption.")
    assert (result[0].method, result[0].frame, result[0].source) == ("Deepfakes", "0", "fftg")
    assert [line.captions for line in result[1:3]] == [(FAKE_WORDS,)] * 2
    assert [line.fake is None for line in result] == [False, False, False, True, True, False]
    assert result[3].real_captions == ("All is well.",)
    assert not result[0].regions.any()


def test_an_object_by_picture_and_fields_of_other_names_are_read(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png", "x/b.png")
    lines = records(tmp_path, {"a.png": FAKE_WORDS, "/their/x/b.png": FAKE_WORDS})
    assert [line.id for line in parsed(lines, tmp_path)] == ["a", "x/b"]
    row = {"path": "a.png", "text": "Odd.", "gt": "fake", "score": [1]}
    names = {"image": "path", "caption": "text", "label": "gt"}
    lines = records(tmp_path, [row], names=names, ignored=frozenset({"score"}))
    assert [line.captions for line in parsed(lines, tmp_path)] == [("Odd.",)]


GOOD = {"image": "a.png", "caption": FAKE_WORDS}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (3, "holds a int, not a list of records"),
        ([GOOD, []], "record 2: is a list, not an object"),
        ([{"caption": "x"}], "record 1: has no field 'image' or 'images' .its fields: caption"),
        ([{"image": "a.png", "text": "x"}], "record 1: has no field 'caption' or .*fields: image, text"),
        ([GOOD | {"mask": "m.png"}], "record 1: the field 'mask' is not known here; .*--ignore=mask"),
        ([GOOD | {"caption": "Odd."}], "record 1: has no field 'label', and its caption does not say"),
        ([GOOD | {"label": "maybe"}], "record 1: the label 'maybe' is neither real nor fake"),
        ([GOOD | {"caption": " "}], "record 1: its caption is not text but ' '"),
        ([GOOD | {"caption": {"a": 1}}], "record 1: its caption is not text"),
        ([{"image": "a.png", "conversations": [{"from": "human"}]}], "record 1: its conversation has no"),
        ([GOOD | {"image": ["a.png", "b.png"]}], "record 1: its picture is not one path"),
        ([GOOD | {"id": [1]}], "record 1: its id is not text"),
        ([GOOD | {"id": "x" * 5000}], "record 1: has a text in 'id' that is longer"),
        ([GOOD | {"split": "dev"}], "record 1: has the split 'dev'"),
        ([GOOD | {"id": "1"}, GOOD | {"id": "1", "image": "b.png"}], "record 2: repeats the id '1'"),
        ({"0_135_880": {"0": ANSWERS}}, "record '0_135_880': has no field 'caption'"),
    ],
)  # fmt: skip
def test_another_schema_is_refused_by_record_and_field(
    content: Any, message: str, tmp_path: Path
) -> None:
    pictures(tmp_path, "a.png", "b.png")
    with pytest.raises(UserError, match=rf"FFTG_Deepfakes.json(, |: ){message}"):
        records(tmp_path, content)


def test_captions_of_one_picture_are_bounded(tmp_path: Path) -> None:
    pictures(tmp_path, "a.png")
    rows = [{"image": "a.png", "caption": f"{FAKE_WORDS} {n}"} for n in range(65)]
    assert len(parsed(records(tmp_path, rows[:64] * 2), tmp_path)[0].captions) == 64
    with pytest.raises(UserError, match="record 65: is a caption above 64 of one picture"):
        records(tmp_path, rows)


def test_a_root_that_lies_too_deep_is_reported(tmp_path: Path) -> None:
    pictures(tmp_path, "v/0.png")
    rows = [{"image": f"{method}/v/0.png", "caption": FAKE_WORDS} for method in ("A", "B")]
    with pytest.raises(UserError, match=r"record 2: 'B/v/0.png' and 'A/v/0.png' would both be"):
        records(tmp_path, rows)


def test_a_wrong_name_of_a_field_and_no_picture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'text' is not one of image, caption, label"):
        RecordFields({"text": "caption"})
    with pytest.raises(UserError, match=r"no caption belongs to a picture \(picture not there 1"):
        records(tmp_path, [GOOD]).text()


def ddvqa(folder: Path, content: Any, pairs: Path | None = None) -> CaptionLines:
    file = write(folder / "Deepfakes.json", content)
    return read_ddvqa(file, folder / "out.jsonl", None if pairs else folder, pairs)


def test_answers_to_the_whole_image_are_the_captions(tmp_path: Path) -> None:
    pictures(tmp_path, "0_135_880.jpg", "5_044.png")
    nose = {
        "question": "Does the person's nose look real/fake?",
        "answer": ["The nose looks fake."],
    }
    real = {"question": ANSWERS["question"], "answer": "The image looks real."}
    content = {
        "0_135_880": {"0": ANSWERS, "1": nose},
        "5_044": {"0": real},
        "6_000_003": {"0": ANSWERS},
        "4_29829": {"0": ANSWERS},
    }
    lines = ddvqa(tmp_path, content)
    fake, real_line = parsed(lines, tmp_path)
    assert (fake.id, fake.method, fake.video) == ("0_135_880", "Deepfakes", "135_880")
    assert (fake.captions, fake.source) == (tuple(ANSWERS["answer"]), "ddvqa")
    assert (real_line.method, real_line.real_captions) == ("real", ("The image looks real.",))
    assert lines.left_out == {
        "picture not there": 1,
        "method 4, which the set does not explain": 1,
    }


def test_a_table_gives_the_pictures_of_a_video_and_their_ids(tmp_path: Path) -> None:
    table = tmp_path / "prepared" / "pairs.csv"
    table.parent.mkdir()
    table.write_text(
        "real,fake,dataset,method,video,frame,split\n"
        "r/1.png,f/1.png,FF,Deepfakes,135_880,1,test\nr/2.png,f/2.png,FF,Deepfakes,135_880,2,test\n"
        "r/1.png,g/1.png,FF,FaceSwap,135_880,1,test\n"
    )
    real = {"question": ANSWERS["question"], "answer": ["The image looks real."]}
    lines = ddvqa(tmp_path, {"0_135_880": {"0": ANSWERS}, "5_135": {"0": real}}, table)
    result = parsed(lines, tmp_path)
    assert [line.id for line in result] == ["f/1", "f/2", "f/1/real", "f/2/real"]
    assert result[1].real == tmp_path / "prepared/r/2.png"
    assert (result[1].split, result[1].frame) == ("test", "2")
    assert [line.fake is None for line in result] == [False, False, True, True]
    (tmp_path / "truth.csv").write_text(
        "fake,nose,mouth\nprepared/f/1.png,1,0\nprepared/f/2.png,1,1\n"
    )
    truth = scoring.read_truth(tmp_path / "truth.csv")
    scored = scoring.score(map(json.loads, lines.text().splitlines()), truth, tmp_path)
    assert (scored["images"], scored["words"]["nose"]["tp"], scored["words"]["mouth"]["fn"]) == (
        2,
        2,
        1,
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds a list, not an object of entries METHOD_VIDEO"),
        ({"FF-DF": {}}, "entry 'FF-DF': is not METHOD_VIDEO, such as 0_135_880"),
        ({"0_1_2": [1]}, "entry '0_1_2': is a list, not an object of questions"),
        ({"0_1_2": {"0": "x"}}, "entry '0_1_2', question '0': is a str, not an object"),
        ({"0_1_2": {"0": {"question": "x"}}}, "entry '0_1_2', question '0': has no field 'answer'"),
        ({"0_1_2": {"0": {"answer": []}}}, "entry '0_1_2', question '0': has no field 'question'"),
        (
            {"0_1_2": {"0": {"question": "x", "answer": [3]}}},
            "entry '0_1_2', question '0': its question and",
        ),
        (
            {"0_1_2": {"0": {"question": "The nose?", "answer": ["x"]}}},
            "entry '0_1_2': has no answer",
        ),
    ],
)
def test_what_is_not_ddvqa_is_refused_by_entry_and_field(
    content: Any, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"Deepfakes.json(, |: ){message}"):
        ddvqa(tmp_path, content)


odd = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.just("a.png"),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ("image", "caption", "conversations", "label", "id", "from", "value", "split", "question",
             "answer", "0_1_2", "0", "5_044")
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(content=odd)
def test_any_json_is_lines_or_one_error(
    content: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "odd"
    pictures(folder, "a.png", "0_1_2.jpg")
    plain = functools.partial(records, folder, content)
    labeled = functools.partial(plain, label=FAKE, ignored=frozenset({"0", "from"}))
    for read in (plain, labeled, functools.partial(ddvqa, folder, content)):
        with contextlib.suppress(UserError):
            assert parsed(read(), folder)
