"""The tokenizer gives transformers' ids, trains small ones that transformers loads, refuses junk."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from data_pipeline.loading.tokenizer import BOS, EOS, Tokenizer, train_tokenizer
from jax_vlffd.errors import UserError

_TEXTS = [
    "",
    " ",
    "This is a fake face. The mouth looks blurry, and the eyes have an unnatural color.",
    "IT'S the nose's TEXTURE!! they'll've 123 4,5",
    "naïve café e\u0301 İstanbul ß ǅ ﬁ \u00a0\u3000\u200b tab\tnew\nline",
    "脸 顔 얼굴 👩🏽‍🦰 🙂🙂 \ufffd\ue000\x00\x07 ำ",
    "a <|endoftext|> b <|startoftext|><|ENDOFTEXT|> !",
    "long " * 200,
]


def _theirs(tokenizer: CLIPTokenizer, texts: list[str], length: int) -> np.ndarray:
    done: Any = tokenizer(
        texts, padding="max_length", truncation=True, max_length=length, return_tensors="np"
    )
    return done["input_ids"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tokenizer, Path]:
    folder = tmp_path_factory.mktemp("trained")
    texts = _TEXTS + ["the nose has an uneven texture", "the mouth looks blurry"] * 10
    return train_tokenizer(texts, 700, folder), folder


@pytest.fixture(scope="module")
def clip_folder(shared_dir: Path) -> Path:
    folder = shared_dir / "weights" / "clip-tokenizer"
    if not folder.is_dir():
        pytest.skip(f"no CLIP tokenizer at {folder}")
    return folder


@pytest.mark.parametrize("length", [2, 5, 77])
def test_trained_tokenizer_gives_transformers_ids(
    trained: tuple[Tokenizer, Path], length: int
) -> None:
    ours, folder = trained
    theirs = CLIPTokenizer.from_pretrained(folder)
    np.testing.assert_array_equal(ours.encode(_TEXTS, length), _theirs(theirs, _TEXTS, length))
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (
        theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id,
    )  # fmt: skip
    assert ours.vocab_size == len(theirs) <= 700


def test_trained_tokenizer_knows_every_byte(trained: tuple[Tokenizer, Path]) -> None:
    """The unknown token is EOS: a byte without a token would end the caption early."""
    texts = [chr(c) for c in (*range(33, 127), 0xE9, 0x3A9, 0x4E00, 0x1F600, 0x10FFFF)]
    tokens = trained[0].encode(texts + [f"x{t}y" for t in texts], 20)
    assert ((tokens == trained[0].eos_id).argmax(1) >= 2).all()


def test_training_repeats_itself(tmp_path: Path) -> None:
    for name in "ab":
        train_tokenizer(_TEXTS, 600, tmp_path / name)
    assert (tmp_path / "a/vocab.json").read_bytes() == (tmp_path / "b/vocab.json").read_bytes()
    assert (tmp_path / "a/merges.txt").read_bytes() == (tmp_path / "b/merges.txt").read_bytes()
    with pytest.raises(ValueError, match="bytes alone need 514"):
        train_tokenizer(_TEXTS, 513, tmp_path / "c")


def test_shape_and_layout(trained: tuple[Tokenizer, Path]) -> None:
    tokenizer = trained[0]
    tokens = tokenizer.encode(["the mouth", "the " * 100], 12)
    assert tokens.dtype == np.int32
    assert tokens.shape == (2, 12)
    assert (tokens[:, 0] == tokenizer.bos_id).all()
    assert tokens[1, -1] == tokenizer.eos_id
    end = int((tokens[0] == tokenizer.eos_id).argmax())
    assert (tokens[0, end:] == tokenizer.pad_id).all()
    assert tokenizer.encode([], 5).shape == (0, 5)


def test_loads_what_it_wrote_and_pickles(trained: tuple[Tokenizer, Path]) -> None:
    ours, folder = trained
    expected = ours.encode(_TEXTS, 30)
    for other in (
        Tokenizer.load(folder),
        Tokenizer.load(str(folder)),
        pickle.loads(pickle.dumps(ours)),
    ):
        np.testing.assert_array_equal(other.encode(_TEXTS, 30), expected)


def test_reads_tokenizer_json(trained: tuple[Tokenizer, Path], tmp_path: Path) -> None:
    CLIPTokenizer.from_pretrained(trained[1]).save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt"):
        (tmp_path / name).unlink(missing_ok=True)
    np.testing.assert_array_equal(
        Tokenizer.load(tmp_path).encode(_TEXTS, 30), trained[0].encode(_TEXTS, 30)
    )


@pytest.mark.parametrize("pad", [EOS, "!"])
@pytest.mark.parametrize("form", ["text", "object"])
def test_pad_token_comes_from_the_files(
    trained: tuple[Tokenizer, Path], tmp_path: Path, pad: str, form: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained[1], folder)
    names = {"bos_token": BOS, "eos_token": EOS, "unk_token": EOS, "pad_token": pad}
    special: dict[str, Any] = dict(names)
    if form == "object":
        flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": True}
        special = {key: {"content": name, **flags} for key, name in names.items()}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    theirs = CLIPTokenizer.from_pretrained(folder)
    ours = Tokenizer.load(folder)
    assert ours.pad_id == theirs.pad_token_id
    expected = _theirs(theirs, _TEXTS, 40)
    np.testing.assert_array_equal(ours.encode(_TEXTS, 40), expected)
    ours.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(_TEXTS, 40), expected)
    assert again.pad_id == ours.pad_id


def test_real_clip_tokenizer(clip_folder: Path) -> None:
    ours = Tokenizer.load(clip_folder)
    assert ours.encode(["a photo of a cat"], 8).tolist() == [
        [49406, 320, 1125, 539, 320, 2368, 49407, 49407]
    ]
    assert (ours.vocab_size, ours.bos_id, ours.eos_id, ours.pad_id) == (49408, 49406, 49407, 49407)


_PARTS = st.one_of(
    st.text(max_size=8),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12),
    st.sampled_from(["'s", "'LL", " ", "\n", BOS, EOS, "<|ENDOFTEXT|>", "e\u0301", "İ", "👩🏽‍🦰"]),
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(_PARTS, max_size=12), length=st.integers(2, 77))
def test_real_clip_tokenizer_agrees_on_any_text(
    clip_pair: tuple[Tokenizer, CLIPTokenizer], parts: list[str], length: int
) -> None:
    text = "".join(parts).encode("utf-8", "ignore").decode()
    ours, theirs = clip_pair
    np.testing.assert_array_equal(ours.encode([text], length), _theirs(theirs, [text], length))


@pytest.fixture(scope="module")
def clip_pair(clip_folder: Path) -> tuple[Tokenizer, CLIPTokenizer]:
    return Tokenizer.load(clip_folder), CLIPTokenizer.from_pretrained(clip_folder)


def test_does_not_import_transformers() -> None:
    code = (
        "import sys, data_pipeline.loading.tokenizer; "
        "assert not {'transformers', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "needs vocab.json and merges.txt"),
        ({"vocab.json": "{}"}, "needs vocab.json and merges.txt"),
        ({"vocab.json": "{", "merges.txt": ""}, "vocab.json is not JSON"),
        ({"vocab.json": "[1]", "merges.txt": ""}, "does not map tokens to ids"),
        ({"vocab.json": '{"a": -1}', "merges.txt": ""}, "does not map tokens to ids"),
        ({"vocab.json": '{"a": 0}', "merges.txt": ""}, "not a CLIP tokenizer"),
        ({"vocab.json": "{}", "merges.txt": "one two three"}, "merges.txt:1: a merge is two"),
        ({"vocab.json": "{}", "merges.txt": "#version\na b"}, "not a CLIP tokenizer"),
        ({"vocab.json": '{"a": ' + "[" * 100_000, "merges.txt": ""}, "not JSON"),
        ({"tokenizer.json": '{"model": {"type": "WordPiece"}}'}, "not a CLIP tokenizer"),
        ({"tokenizer.json": '{"model": {"end_of_word_suffix": "</w>"}}'}, "faulty merges"),
        ({"tokenizer_config.json": "3"}, "is not a JSON object"),
    ],
)
def test_faulty_files_are_reported(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        Tokenizer.load(tmp_path)


def test_other_faults_are_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        Tokenizer.load(tmp_path / "missing")
    file = tmp_path / "vocab.json"
    file.write_text("{}")
    with pytest.raises(UserError, match="is a file"):
        Tokenizer.load(file)
    with (tmp_path / "merges.txt").open("wb") as large:
        large.truncate(65 << 20)
    with pytest.raises(UserError, match="larger than 64 MiB"):
        Tokenizer.load(tmp_path)


def test_unreachable_hub_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="neither a folder nor a hub id that could be"):
        Tokenizer.load("nobody/no-such-tokenizer")
