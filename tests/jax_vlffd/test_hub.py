"""Sources on the Hugging Face hub, at a revision, downloaded from a real server on the loopback."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd import hub
from jax_vlffd.clip import huggingface
from jax_vlffd.errors import UserError
from jax_vlffd.inference.trained import open_trained
from tests.support.hub_server import Hub, serving
from tests.support.tiny_export import Made

ID = "someone/clip"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(tmp_path / "cache", monkeypatch) as it:
        yield it


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("a/b", ("a/b", None)),
        ("a/b@v1.0", ("a/b", "v1.0")),
        ("a/b@refs/pr/1", ("a/b", "refs/pr/1")),
        ("openai/clip-vit-base-patch16@" + "0" * 40, ("openai/clip-vit-base-patch16", "0" * 40)),
    ],
)
def test_an_id_may_have_a_revision(source: str, parts: tuple[str, str | None]) -> None:
    assert hub.parse(source) == parts


@pytest.mark.parametrize(
    "source",
    [
        "a",
        "/a/b",
        "./a",
        "a/b/c",
        "a/b@",
        "a/b@../x",
        "a/b@x/../../y",
        "a/b@x\n",
        "a/b@@x",
        "ä/b",
        "a b/c",
    ],
)
def test_other_texts_are_not_hub_ids(source: str) -> None:
    assert hub.parse(source) is None


@given(st.text(max_size=40), st.text(max_size=40))
def test_a_source_that_passes_leads_nowhere_else(name: str, revision: str) -> None:
    for source in (name, f"{name}/{revision}", f"a/b@{revision}", f"{name}/b@{revision}"):
        parsed = hub.parse(source)
        if parsed is not None:
            assert ".." not in (parsed[1] or "")
            assert source.isascii()
            assert source.isprintable()
            assert not source.startswith(("/", "."))
            assert hub.pinned(*parsed) == source


def test_a_revision_is_what_is_read(
    server: Hub, write: Callable[..., Path], tmp_path: Path
) -> None:
    """A branch, a tag and a commit; without one, `main`, also after it has moved."""
    folder = write()
    first = server.push(ID, folder)
    server.refs[ID, "v1"] = first
    assert hub.commit(huggingface.open_checkpoint(ID).folder) == first
    (folder / "preprocessor_config.json").write_text("{}")
    second = server.push(ID, folder)
    assert second != first
    for source, commit in [
        (ID, second), (f"{ID}@main", second), (f"{ID}@v1", first), (f"{ID}@{first}", first),
        (f"{ID}@{second}", second),
    ]:  # fmt: skip
        opened = huggingface.open_checkpoint(source).folder
        assert hub.commit(opened) == commit
        assert (opened / "preprocessor_config.json").exists() == (commit == second)
        assert (opened / "model.safetensors").read_bytes() == (
            folder / "model.safetensors"
        ).read_bytes()


def test_what_is_cached_needs_no_server(server: Hub, write: Callable[..., Path]) -> None:
    commit = server.push(ID, write())
    with pytest.raises(UserError, match="neither a folder nor a hub id that could be downloaded"):
        huggingface.open_checkpoint(ID, cached=True)
    assert not server.asked
    huggingface.open_checkpoint(ID)
    server.asked.clear()
    for source in (ID, f"{ID}@{commit}"):
        opened = huggingface.open_checkpoint(source, cached=True)
        assert hub.commit(opened.folder) == commit
    assert not server.asked


@pytest.mark.parametrize("source", ["nobody/nothing", f"{ID}@v9", f"{ID}@{'0' * 40}"])
def test_what_the_hub_does_not_have_is_one_line(
    source: str, server: Hub, write: Callable[..., Path]
) -> None:
    server.push(ID, write())
    for read in (huggingface.open_checkpoint, Tokenizer.load, open_trained):
        with pytest.raises(UserError) as caught:
            read(source)
        assert str(caught.value).startswith(f"{source}: neither a folder nor a hub id")
        assert "\n" not in str(caught.value)


def test_a_tokenizer_and_a_detector_are_read_at_a_revision(
    server: Hub, made: Made, tmp_path: Path
) -> None:
    _, exported = made("clip")
    folder = Path(shutil.copytree(exported, tmp_path / "export"))
    commit = server.push("someone/detector", folder)
    (folder / "export.json").write_text("{}")
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    server.push("someone/detector", folder)
    pinned = open_trained(f"someone/detector@{commit}")
    assert pinned.hash() == open_trained(exported).hash()
    with pytest.raises(UserError, match=r"export\.json"):
        open_trained("someone/detector")
    commit = server.push("someone/words", exported / "tokenizer")
    server.push("someone/words", folder / "tokenizer")
    assert (
        Tokenizer.load(f"someone/words@{commit}").digest()
        == Tokenizer.load(exported / "tokenizer").digest()
    )
    with pytest.raises(UserError):
        Tokenizer.load("someone/words")
