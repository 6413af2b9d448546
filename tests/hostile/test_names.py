"""Names that data choose, given to commands that read them from files: none leads out of the folders."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.packed.builder import pack
from tests.support import processes, tiny, watched
from tests.support.packed_sets import draw, encode, write_annotations
from tests.support.tiny_export import Made

#: {secret} is a folder that no command is given.
NAMES = (
    "..", "../secret/face.png", "../../secret/face.png", "a/../../secret/face.png", "{secret}/face.png",
    "link.png", "link/face.png", "a\0b.png", "..\\secret\\face.png", "C:\\secret\\face.png", "C:face.png",
    "\\\\host\\share\\face.png", "//host/share/face.png", "file://{secret}/face.png", "http://127.0.0.1:9/a.png",
    "~/face.png", "$HOME/face.png", "%2e%2e/secret/face.png", "-rf", "--out=x", "a" * 300 + ".png",
    "n/" * 300 + "a.png", "two\nlines.png", "title\x1b]0;x\x07.png", "\u202egnp.png", "con", ".", "", " ",
    "=HYPERLINK(1)", "<script>alert(1)</script>", "{{x}}", "[red]a[/red]", "\ud800.png",
)  # fmt: skip


class Place:
    """Folders of a test: `theirs` with odd names, `secret`, and `out`."""

    def __init__(self, root: Path, made: Made):
        self.theirs, self.secret, self.out = root / "theirs", root / "secret", root / "out"
        for folder in (self.theirs, self.secret, self.out):
            folder.mkdir()
        self.made = made
        (self.secret / "face.png").write_bytes(encode(draw(0, 160)))
        (self.theirs / "link.png").symlink_to(self.secret / "face.png")
        (self.theirs / "link").symlink_to(self.secret)
        (self.theirs / "own.png").write_bytes(encode(draw(1, 160)))
        np.save(self.theirs / "own.npy", np.random.default_rng(0).uniform(30, 130, (68, 2)))
        self.names = [name.replace("{secret}", str(self.secret)) for name in NAMES]

    def table(self, name: str, columns: str, rows: Iterable[Iterable[object]]) -> Path:
        """Writes a CSV, without what CSV cannot hold."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(columns.split(","))
        writer.writerows(rows)
        path = self.theirs / name
        path.write_text(text.getvalue().encode("utf-8", "replace").decode())
        return path

    def lines(self, name: str, *places: str) -> Path:
        """Annotation lines of sound pictures, with each odd name in each place."""
        count = len(self.names) * len(places)
        file = write_annotations(self.theirs, count, ("Deepfakes",), captions=1)
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        odd = ((place, value) for place in places for value in self.names)
        for line, (place, value) in zip(lines, odd, strict=True):
            line[place] = value
        path = self.theirs / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path


def annotate(it: Place) -> list[object]:
    rows = [("own.png", name, "", f"f{n}") for n, name in enumerate(it.names)]
    rows += [(name, "own.png", "", f"r{n}") for n, name in enumerate(it.names)]
    rows += [("own.png", "own.png", name, f"m{n}") for n, name in enumerate(it.names)]
    rows += [("own.png", "own.png", "", name) for name in it.names]
    pairs = it.table("pairs.csv", "real,fake,mask,id", rows)
    return [
        f"--pairs={pairs}", f"--out={it.out / 'a.jsonl'}", f"--masks={it.out / 'masks'}",
        f"--review={it.out / 'review.html'}", "--workers=1",
    ]  # fmt: skip


def pack_places(it: Place) -> list[object]:
    file = it.lines("names.jsonl", "real", "fake", "mask")
    return [f"--annotations={file}", f"--out={it.out / 'set'}"]


def pack_columns(it: Place) -> list[object]:
    file = it.lines("names.jsonl", "id", "video", "method", "dataset", "split")
    return [f"--annotations={file}", f"--out={it.out / 'set'}"]


def prepare_json(it: Place) -> list[object]:
    videos = {
        name: {"label": name if n % 2 else "X_Real", "frames": [*it.names, "own.png"]}
        for n, name in enumerate(it.names)
    }
    content = {name: {"X_Real": {name: videos}} for name in it.names}
    (it.theirs / "x.json").write_text(json.dumps(content))
    return [
        "--dataset=deepfakebench", f"--root={it.theirs}", "--json=x.json", f"--out={it.out / 'p'}",
        "--workers=1",
    ]  # fmt: skip


def _put(folder: Path, names: Iterable[str]) -> None:
    """Pictures under those names that a folder can hold."""
    folder.mkdir(parents=True)
    for name in names:
        fits = name.strip("./") and not {"/", "\0"} & {*name} and len(name) < 250
        if fits and not (folder / name).exists():
            (folder / os.fsdecode(name.encode("utf-8", "replace"))).write_bytes(
                encode(draw(2, 160))
            )


def prepare_folder(it: Place) -> list[object]:
    for kind in ("real", "fake"):
        _put(it.theirs / "set" / kind, {*it.names} - {"link.png"})
        (it.theirs / "set" / kind / "link").symlink_to(it.secret)
        (it.theirs / "set" / kind / "link.png").symlink_to(it.secret / "face.png")
    return [
        "--dataset=folder", f"--root={it.theirs / 'set'}", f"--out={it.out / 'p'}", "--workers=1"
    ]  # fmt: skip


def predict(it: Place) -> list[object]:
    _put(it.theirs / "pictures", it.names)
    return [
        f"--checkpoint={it.made('clip')[1]}", "--crops", f"--out={it.out / 'p.jsonl'}",
        f"--overlay={it.out / 'overlays'}", f"--html={it.out / 'p.html'}", it.theirs / "pictures",
    ]  # fmt: skip


def evaluate_scores(it: Place) -> list[object]:
    rows = [
        ((place == "dataset" and name) or "d", (place == "method" and name) or ("real", "m")[n % 2],
         (place == "video" and name) or f"v{n}", n % 2, 0.01 * n, (place == "detector" and name) or "a")
        for place in ("dataset", "method", "video", "detector")
        for n, name in enumerate(it.names)
    ]  # fmt: skip
    table = it.table("scores.csv", "dataset,method,video,label,probability,detector", rows)
    return [f"--from_scores={table}", f"--out={it.out / 'e'}", "--bootstrap=0"]


def evaluate_set(it: Place) -> list[object]:
    file = write_annotations(it.theirs, len(it.names), ("Deepfakes",), captions=1, split="test")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line, name in zip(lines, it.names, strict=True):
        printable = name.encode("utf-8", "replace").decode().replace("\0", "")
        line |= {"id": f"{printable}|", "video": f"{printable}|"}
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pack([file], it.theirs / "set")
    return [
        f"--workdir={it.made('clip')[1]}", f"--data=x={it.theirs / 'set'}", f"--out={it.out / 'e'}",
        "--bootstrap=0",
    ]  # fmt: skip


def score_annotations(it: Place) -> list[object]:
    file = it.lines("names.jsonl", "id", "fake")
    rows = [(name, 0, 0, 0, 1, 0) for name in it.names]
    truth = it.table("truth.csv", "fake,left_eye,right_eye,nose,mouth,face", rows)
    return [f"--annotations={file}", f"--truth={truth}", f"--out={it.out / 's.json'}"]


def convert_records(it: Place) -> list[object]:
    records = [{"id": f"i{n}", "image": name, "caption": "x"} for n, name in enumerate(it.names)]
    records += [
        {"id": name or "?", "image": "own.png", "caption": name or "x"} for name in it.names
    ]
    (it.theirs / "x.json").write_text(json.dumps(records))
    return [
        "--from=fftg", "--label=fake", f"--annotations={it.theirs / 'x.json'}", f"--out={it.out / 'c'}"
    ]  # fmt: skip


def convert_masks(it: Place) -> list[object]:
    (it.theirs / "x.json").write_text(
        json.dumps({"x": {"X_Fake": {"v": {"frames": ["own.png"], "masks": it.names}}}})
    )
    return [
        "--from=deepfakebench", f"--annotations={it.theirs / 'x.json'}", f"--out={it.out / 'c'}"
    ]  # fmt: skip


def convert_lines(it: Place) -> list[object]:
    file = it.lines("names.jsonl", "id", "real", "fake", "split")
    return ["--to=sharegpt", f"--annotations={file}", f"--out={it.out / 'c'}"]


def calibrate_fftg(it: Place) -> list[object]:
    _put(it.theirs / "faces", it.names)
    (it.theirs / "faces" / "link").symlink_to(it.secret)
    faces = it.theirs / "faces"
    return [
        f"--faces={faces}",
        f"--heldout={faces}",
        "--plants=50",
        f"--report={it.out / 'r.md'}",
    ]


#: What writes the names -> the command.
READERS: Mapping[Callable[[Place], list[object]], str] = {
    annotate: "annotate", pack_places: "pack", pack_columns: "pack", prepare_json: "prepare",
    prepare_folder: "prepare", predict: "predict", evaluate_scores: "evaluate", evaluate_set: "evaluate",
    score_annotations: "score_annotations", calibrate_fftg: "calibrate_fftg", convert_records: "convert",
    convert_masks: "convert", convert_lines: "convert",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("build", READERS, ids=lambda build: build.__name__)
def test_no_name_leads_out(
    build: Callable[[Place], list[object]], made: Made, tmp_path: Path
) -> None:
    it = Place(tmp_path, made)
    arguments = [str(argument) for argument in build(it)]
    before = {path for path in tmp_path.rglob("*") if it.out not in path.parents}
    log = tmp_path / "audit"
    environment = watched.environment(log, tiny.environment()) | {"HOME": str(it.out / "home")}
    done = processes.run(f"launch.{READERS[build]}", arguments, environment, it.theirs, 300)
    said = done.stdout + done.stderr
    assert done.returncode in (0, 1), said
    assert "Traceback" not in said
    assert not [c for c in said if not c.isprintable() and c not in "\n\t"], said
    if done.returncode:
        assert done.stderr.splitlines()[-1].startswith("error: "), said
    after = {path for path in tmp_path.rglob("*") if it.out not in path.parents}
    assert after - before == {log}
    assert not [path for path in it.out.rglob("*") if path.is_symlink()]
    for page in it.out.rglob("*.html"):
        assert "<script>alert(1)" not in page.read_text()
    own = [it.theirs, it.out, *(folder.parent for folder in made("clip"))]
    own += [Path(environment["JAX_COMPILATION_CACHE_DIR"])]
    wrong = [*watched.faults(log, own, it.theirs)]
    assert not wrong, wrong[:5]
