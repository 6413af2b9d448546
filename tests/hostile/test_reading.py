"""What is read of a stranger is a regular file of a bounded size, whatever reads it."""

from __future__ import annotations

import ast
import os
import shutil
import signal
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from data_pipeline.core import discovery, tables
from data_pipeline.core.files import read_object
from data_pipeline.core.images import InputError, read_picture
from data_pipeline.core.video import VideoError, open_frames
from data_pipeline.faces.landmarks import stored_landmarks
from data_pipeline.fftg.pairs import read_pairs
from data_pipeline.fftg.runner import open_annotations
from data_pipeline.fftg.scoring import read_truth
from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed import set_files
from data_pipeline.packed.card import read_card
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd import geometry, jsonl
from jax_vlffd.clip import huggingface
from jax_vlffd.errors import UserError
from jax_vlffd.explanation import Explainer
from jax_vlffd.export import folder as exported
from jax_vlffd.inference import trained
from jax_vlffd.training.metric_writer import read_history
from launch.evaluation import scoring
from launch.experiment import config as configs
from launch.experiment import training_data
from tests.support import tiny

#: File -> what reads it, given its folder.
READERS: dict[str, Callable[[Path], Any]] = {
    "config.json": configs.read_saved,
    "calibration.json": trained.read_calibration,
    "training_data.json": training_data.read,
    "training_data.json ": lambda folder: geometry.read(folder),
    "explanation.safetensors": lambda folder: Explainer.load(folder / "explanation.safetensors"),
    "metrics.jsonl": read_history,
    "export.json": exported.read_manifest,
    "summary.json": lambda folder: read_object(folder / "summary.json"),
    "data_card.json": read_card,
    "features.json": lambda folder: set_files.read_json(folder, "features.json"),
    "vocab.json": Tokenizer.load,
    "pairs.csv": lambda folder: read_pairs(folder / "pairs.csv"),
    "table.csv": lambda folder: tables.read_rows(folder / "table.csv", "a"),
    "table.json": lambda folder: tables.read_json(folder / "table.json"),
    "truth.csv": lambda folder: read_truth(folder / "truth.csv"),
    "scores.csv": lambda folder: scoring._read(str(folder / "scores.csv"), []),
    "list.txt": lambda folder: discovery.read_list(folder / "list.txt"),
    "lines.jsonl": lambda folder: jsonl.read_lines(folder / "lines.jsonl"),
    "annotated.jsonl": lambda folder: open_annotations(folder / "annotated.jsonl"),
    "picture.png": lambda folder: read_picture(folder / "picture.png"),
    "video.mp4": lambda folder: open_frames(folder / "video.mp4"),
    "frames/landmarks.npy": lambda folder: stored_landmarks(folder / "frames/landmarks.png"),
    "hf/config.json": lambda folder: huggingface.open_checkpoint(str(folder / "hf")),
    "hf/model.safetensors": lambda folder: huggingface.open_checkpoint(str(folder / "hf")),
    "hf/model.safetensors.index.json": lambda folder: huggingface.open_checkpoint(str(folder / "hf")),
}  # fmt: skip
#: Those whose readers take what is not there, or cannot be read, for nothing.
EMPTY = ("data_card.json", "summary.json", "frames/landmarks.npy")


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def put_sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 43)


def put_deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def put_folder(path: Path) -> None:
    path.mkdir()


def put_nothing(path: Path) -> None:
    path.write_bytes(b"")


def put_nulls(path: Path) -> None:
    path.write_bytes(bytes(1000) + b"\xff\xfe")


FAULTS = (put_pipe, put_zeros, put_sparse, put_deep, put_folder, put_nothing, put_nulls)


@pytest.fixture
def hurry() -> Iterator[None]:
    """Ends a test that waits for ever."""

    def end(*_: object) -> None:
        raise AssertionError("it waits for ever")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("hurry")
@pytest.mark.parametrize("name", READERS)
def test_every_reader_refuses_what_is_no_small_file(name: str, tmp_path: Path) -> None:
    hf = '{"model_type": "clip", "text_config": {}, "vision_config": {}}'
    for number, put in enumerate(FAULTS):
        folder = tmp_path / str(number)
        (folder / "hf").mkdir(parents=True)
        (folder / "frames").mkdir()
        (folder / "landmarks").mkdir()
        path = folder / name.strip()
        if path.parent.name == "frames":
            path = folder / "landmarks" / path.name
        if path.parent.name == "hf" and path.name != "config.json":
            (folder / "hf/config.json").write_text(hf)
        put(path)
        tracemalloc.start()
        try:
            value = READERS[name](folder)
        except (UserError, InputError, VideoError) as error:
            refusal = str(error)
        else:
            refusal = str(folder)
            empty = put in (put_nothing, put_nulls, put_folder, put_deep) or name in EMPTY
            assert empty or not value, (put.__name__, value)
            if hasattr(value, "__exit__"):
                value.__exit__(None, None, None)
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert str(folder) in refusal or "not a regular file" in refusal, (put.__name__, refusal)
        assert len(refusal) < 1000
        assert peak < 300 << 20, put.__name__


def test_index_files_of_a_packed_set(packed: Path, tmp_path: Path, hurry: None) -> None:
    for put in FAULTS:
        mine = Path(shutil.copytree(packed, tmp_path / put.__name__))
        (mine / "index/train.npy").unlink()
        put(mine / "index/train.npy")
        with pytest.raises(UserError, match=r"train\.npy"):
            PackedSplit(mine, "train")


#: Where a file is read otherwise: our own, of a bucket, or of a size that was checked before.
OTHERWISE = {
    "data_pipeline/fftg/refine/prompts/__init__.py": "the package's own prompts",
    "data_pipeline/packed/remote.py": "a bucket's SHA256SUMS, whose length is checked",
    "jax_vlffd/training/heartbeat.py": "a bucket's heartbeat",
    "jax_vlffd/training/checkpoints.py": "metrics of a checkpoint, whose sizes are checked on opening",
    "launch/experiment/agreement.py": "a word that the run itself wrote",
    "launch/experiment/initialization.py": "a tokenizer that the run itself wrote",
    "launch/experiment/remote_workdir.py": "the user's own bucket",
    "launch/experiment/distributed.py": "the package's own code",
    "launch/demo.py": "the demo's own report",
}


def test_no_file_is_read_without_a_bound() -> None:
    """`read_text` and `read_bytes` of a path read whatever is there, to its end."""
    raw = []
    for package in ("data_pipeline", "jax_vlffd", "launch"):
        for file in sorted((tiny.ROOT / package).rglob("*.py")):
            where = file.relative_to(tiny.ROOT).as_posix()
            for node in ast.walk(ast.parse(file.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                on_module = isinstance(node.func.value, ast.Name) and node.func.value.id == "files"
                if node.func.attr in ("read_text", "read_bytes") and not on_module:
                    raw.append(where)
    assert set(raw) == set(OTHERWISE), set(raw) ^ set(OTHERWISE)


def test_scores_are_read_as_they_were_written_and_never_as_formulas(tmp_path: Path) -> None:
    import numpy as np

    from jax_vlffd.evaluation.scores import Scores, from_csv, to_csv

    names = [
        "=HYPERLINK(1)", "@SUM(1)", "+cmd|'/C calc'!A0", "-2+3=1", "'=x", "''=x", "\tx", "-1abc", "plain",
        "'plain",
    ]  # fmt: skip
    count = len(names)
    table = Scores(
        *[np.array(names)] * 6, label=np.arange(count) % 2, probability=np.full(count, 0.5)
    )
    text = to_csv({names[0]: table})
    assert not [line for line in text.splitlines() if line[0] in "=@+\t"]
    assert ",=" not in text
    assert ",@" not in text
    back = from_csv(text, "scores.csv")
    assert list(back) == [names[0]]
    assert back[names[0]].video.tolist() == names
    assert "-1abc" in text
    assert "'-1abc" not in text


def test_a_long_name_takes_no_gigabytes(tmp_path: Path) -> None:
    from jax_vlffd.evaluation.scores import from_csv

    rows = [f"d,m,v{number},{number % 2},0.5" for number in range(4000)]
    rows[7] = f"d,m,{'x' * 130_000},1,0.5"
    text = "\n".join(["dataset,method,video,label,probability", *rows])
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="video has a name of 130,000 letters"):
            from_csv(text, "scores.csv")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(UserError, match="contradict each other"):
        from_csv("dataset,method,video,label,probability,logit\nd,m,v,1,0.9,-3\n", "scores.csv")
