"""Folders and files of strangers, of each kind, opened by the commands that read it.

Each command is watched by Python's audit hook, its spawned workers too. Whatever comes of it, it opens nothing
outside the folders that it was given, runs nothing of theirs, and ends in one line.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jax_vlffd.clip.huggingface import save_hf
from tests.hostile.test_packed_sets import EVIL, poison
from tests.support import hf_files, processes, tiny, watched
from tests.support.packed_sets import draw, encode, write_annotations
from tests.support.tiny_export import Made

#: Of a terminal: a title, a color, an erased line.
ESCAPES = "\x1b]0;title\x07\x1b[31m\x1b[2K\r"
Arguments = list[object]


class Stranger:
    """A folder by somebody else, what it would like to reach, and what the user has."""

    def __init__(self, root: Path, packed: Path, made: Made):
        self.theirs, self.secret, self.out = root / "theirs", root / "secret", root / "out"
        for folder in (self.theirs, self.secret, self.out):
            folder.mkdir()
        self.packed, self.made = packed, made
        (self.theirs / "evil.py").write_text(EVIL)
        (self.secret / "key.json").write_text('{"version": 1, "key": "secret"}')
        (self.secret / "face.png").write_bytes(encode(draw(0)))

    def link(self, name: str, target: str) -> None:
        """Puts a link to something secret into their folder."""
        path = self.theirs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(self.secret / target)

    def recipe(self, folder: Path, **changes: object) -> Path:
        """A recipe of the user's own."""
        return tiny.write_recipe(self.out / "recipe.py", *tiny.settings(folder, **changes))


def huggingface(it: Stranger) -> Arguments:
    save_hf(it.theirs, hf_files.draw(), hf_files.CONFIG)
    config = json.loads((it.theirs / "config.json").read_text())
    config |= {"auto_map": {"AutoModel": "evil.Model"}, "_name_or_path": str(it.secret)}
    (it.theirs / "config.json").write_text(json.dumps(config))
    shutil.move(it.theirs / "model.safetensors", it.secret / "model.safetensors")
    it.link("model.safetensors", "model.safetensors")
    recipe = it.recipe(it.packed)
    return [
        "train",
        f"--config={recipe}",
        f"--workdir={it.out / 'run'}",
        f"--config.init.clip={it.theirs}",
    ]


def packed_set(it: Stranger) -> Arguments:
    mine = Path(shutil.copytree(it.packed, it.theirs / "set"))
    poison(mine)
    return ["train", f"--config={it.recipe(mine)}", f"--workdir={it.out / 'run'}"]


def shard_elsewhere(it: Stranger) -> Arguments:
    mine = Path(shutil.copytree(it.packed, it.theirs / "set"))
    shard = next(mine.glob("*validation.array_record*"))
    shutil.move(shard, it.secret / "shard")
    it.link(f"set/{shard.name}", "shard")
    return evaluation(it, own_model(it), mine)


def exported(it: Stranger) -> Arguments:
    shutil.copytree(it.made("clip")[1], it.theirs / "model")
    it.link("model/tokenizer/vocab.json", "key.json")
    return [
        "predict",
        f"--checkpoint={it.theirs / 'model'}",
        "--crops",
        str(it.packed.parent / "train/real_0.png"),
    ]


def calibration_changed(it: Stranger) -> Arguments:
    model = Path(shutil.copytree(it.made("clip")[1], it.theirs / "model"))
    values = json.loads((model / "calibration.json").read_text())
    (model / "calibration.json").write_text(json.dumps(values | {"threshold": 1, "high": 1}))
    return [
        "predict",
        f"--checkpoint={model}",
        "--crops",
        str(it.packed.parent / "train/real_0.png"),
    ]


def prepared(it: Stranger) -> Arguments:
    (it.theirs / "a.png").write_bytes(encode(draw(1, 160)))
    (it.theirs / "face.png").symlink_to("pipe")
    os.mkfifo(it.theirs / "pipe")
    rows = [
        "real,fake,id",
        f"a.png,{it.secret}/face.png,1",
        "a.png,../secret/face.png,2",
        "a.png,http://127.0.0.1:9/face.png,3",
        f"a.png,a.png,{ESCAPES}",
        "a.png,C:\\secret\\face.png,5",
        "a.png,gone.png,../../secret/6",
        f"a.png,{'x' * 300}.png,7",
        "face.png,a.png,8",
    ]
    (it.theirs / "pairs.csv").write_text("\n".join(rows))
    return [
        "annotate",
        f"--pairs={it.theirs / 'pairs.csv'}",
        f"--out={it.out / 'a.jsonl'}",
        f"--masks={it.out / 'masks'}",
        "--workers=2",
    ]


def bench_json(it: Stranger) -> Arguments:
    frames = [f"{it.secret}/face.png", "../secret/face.png", "http://127.0.0.1:9/1.png", "a\0.png"]
    (it.theirs / "001.png").write_bytes(encode(draw(1, 160)))
    content = {
        "X": {
            "X_Real": {"test": {f"v{ESCAPES}": {"label": "X_Real", "frames": [*frames, "001.png"]}}}
        }
    }
    (it.theirs / "x.json").write_text(json.dumps(content))
    return [
        "prepare",
        "--dataset=deepfakebench",
        f"--root={it.theirs}",
        f"--out={it.out / 'p'}",
        "--workers=2",
    ]


def videos(it: Stranger) -> Arguments:
    folder = it.theirs / "http:" / "127.0.0.1:9"
    (folder / "real").mkdir(parents=True)
    (folder / "fake").mkdir()
    (folder / "real/a.avi").write_text(f"#EXTM3U\nAVI \n{it.secret}/face.png\n")
    (folder / "fake/a.avi").write_text(f"ffconcat version 1.0\nfile {it.secret}/face.png\n")
    return [
        "prepare",
        "--dataset=folder",
        f"--root={folder}",
        f"--out={it.out / 'p'}",
        "--workers=1",
    ]


def annotations(it: Stranger) -> Arguments:
    file = write_annotations(it.theirs / "a", 2)
    os.mkfifo(it.theirs / "a/pipe.png")
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[1]["fake"] = "pipe.png"
    file.write_text("\n".join(map(json.dumps, lines)))
    return ["pack", f"--annotations={file}", f"--out={it.out / 'set'}"]


def truth(it: Stranger) -> Arguments:
    file = write_annotations(it.theirs / "a", 2, regions={"mouth": {"forged": True}})
    it.link("truth.csv", "key.json")
    return ["score_annotations", f"--annotations={file}", f"--truth={it.theirs / 'truth.csv'}"]


def scores(it: Stranger) -> Arguments:
    rows = [f"=HYPERLINK(1),m,v{n}{ESCAPES[:-1]},{n % 2},0.{n},@d" for n in range(8)]
    header = "dataset,method,video,label,probability,detector"
    (it.theirs / "scores.csv").write_text("\n".join([header, *rows]))
    return [
        "evaluate",
        f"--from_scores={it.theirs / 'scores.csv'}",
        f"--out={it.out / 'e'}",
        "--bootstrap=0",
    ]


def sweep(it: Stranger) -> Arguments:
    recipe = it.recipe(it.packed)
    recipe.write_text(
        recipe.read_text() + "\ndef get_sweep():\n    return [{'optim.learning_rate': 0.1}]\n"
    )
    it.link("sweep/logs/run.log", "key.json")
    it.link("sweep/summary.csv", "key.json")
    return ["sweep", f"--config={recipe}", f"--workdir={it.theirs / 'sweep'}", "--list"]


def predictions(it: Stranger) -> Arguments:
    (it.theirs / "out.jsonl").write_text("[" * 100_000 + "\n")
    picture = it.packed.parent / "train/real_0.png"
    return [
        "predict",
        f"--checkpoint={it.made('clip')[1]}",
        "--crops",
        f"--out={it.theirs / 'out.jsonl'}",
        str(picture),
    ]


def own_model(it: Stranger) -> str:
    """A model of the user's own."""
    return str(it.made("clip")[1])


def reasons(it: Stranger, **changed: object) -> Arguments:
    """`score_reasons` with sound inputs, but these."""
    inputs = {
        "workdir": own_model(it), "data": f"own={it.packed}", "split": "validation",
        "validation": it.packed, "out": it.out / "r.json",
    } | changed  # fmt: skip
    return ["score_reasons", *(f"--{name}={value}" for name, value in inputs.items())]


def evaluation(it: Stranger, model: object, data: object) -> Arguments:
    """`evaluate` of a model on a set."""
    flags = (
        f"--workdir={model}",
        f"--data=own={data}",
        "--split=validation",
        f"--out={it.out / 'e'}",
    )
    return ["evaluate", *flags]


def huggingface_as_model(it: Stranger) -> Arguments:
    huggingface(it)
    return ["export", f"--workdir={it.theirs}", f"--out={it.out / 'exported'}"]


def set_evaluated(it: Stranger) -> Arguments:
    packed_set(it)
    return evaluation(it, own_model(it), it.theirs / "set")


def set_of_reasons(it: Stranger) -> Arguments:
    packed_set(it)
    return reasons(it, data=f"own={it.theirs / 'set'}")


def set_of_validation(it: Stranger) -> Arguments:
    packed_set(it)
    return reasons(it, validation=it.theirs / "set")


def set_swept(it: Stranger) -> Arguments:
    _, recipe, _ = packed_set(it)
    path = Path(str(recipe).partition("=")[2])
    path.write_text(f"{path.read_text()}\ndef get_sweep():\n    return [{{'seed': 1}}]\n")
    return ["sweep", str(recipe), f"--workdir={it.out / 'sweep'}", "--bootstrap=0"]


def shard_trained(it: Stranger) -> Arguments:
    shard_elsewhere(it)
    return ["train", f"--config={it.recipe(it.theirs / 'set')}", f"--workdir={it.out / 'run'}"]


def shard_of_reasons(it: Stranger) -> Arguments:
    shard_elsewhere(it)
    return reasons(it, data=f"own={it.theirs / 'set'}")


def export_evaluated(it: Stranger) -> Arguments:
    exported(it)
    return evaluation(it, it.theirs / "model", it.packed)


def export_of_reasons(it: Stranger) -> Arguments:
    exported(it)
    return reasons(it, workdir=it.theirs / "model")


def export_exported(it: Stranger) -> Arguments:
    exported(it)
    return ["export", f"--workdir={it.theirs / 'model'}", f"--out={it.out / 'exported'}"]


def calibration_evaluated(it: Stranger) -> Arguments:
    calibration_changed(it)
    return evaluation(it, it.theirs / "model", it.packed)


def prepared_again(it: Stranger) -> Arguments:
    prepared(it)
    return [
        "prepare",
        "--dataset=folder",
        f"--root={it.theirs}",
        f"--out={it.out / 'p'}",
        "--workers=1",
    ]


def annotations_scored(it: Stranger) -> Arguments:
    annotations(it)
    file = it.theirs / "a" / "annotations.jsonl"
    return ["score_annotations", f"--annotations={file}", f"--out={it.out / 's.json'}"]


def annotations_continued(it: Stranger) -> Arguments:
    prepared(it)
    lines = it.theirs / "a.jsonl"
    lines.write_text("[" * 100_000 + "\n")
    return ["annotate", f"--pairs={it.theirs / 'pairs.csv'}", f"--out={lines}", "--workers=1"]


def scores_of_calibration(it: Stranger) -> Arguments:
    calibration_changed(it)
    it.link("calibration.json", "key.json")
    return [*scores(it), f"--calibration={it.theirs / 'calibration.json'}"]


def sweep_continued(it: Stranger) -> Arguments:
    return [argument for argument in sweep(it) if argument != "--list"]


#: What builds it -> exit status, and words of what is said.
KINDS: dict[Callable[[Stranger], Arguments], tuple[int, str]] = {
    huggingface: (1, "model.safetensors is a link out of"),
    packed_set: (1, "features.json is not the schema"),
    shard_elsewhere: (1, "is a link out of its set"),
    exported: (1, "vocab.json is a link out of"),
    calibration_changed: (1, "calibration.json differs from SHA256SUMS"),
    prepared: (1, "missing_file 5, no_face 1, path_outside 2"),
    bench_json: (1, "cannot be a name"),
    videos: (1, "is damaged, empty or not a video"),
    annotations: (1, "pipe.png: not a regular file"),
    truth: (1, "truth.csv: needs rows"),
    scores: (0, "wrote"),
    sweep: (1, "run.log is a link out of"),
    predictions: (1, "out.jsonl"),
    huggingface_as_model: (1, "model.safetensors is a link out of"),
    set_evaluated: (1, "features.json is not the schema"),
    set_of_reasons: (1, "features.json is not the schema"),
    set_of_validation: (1, "features.json is not the schema"),
    set_swept: (1, "features.json is not the schema"),
    shard_trained: (1, "is a link out of its set"),
    shard_of_reasons: (1, "is a link out of its set"),
    export_evaluated: (1, "vocab.json is a link out of"),
    export_of_reasons: (1, "vocab.json is a link out of"),
    export_exported: (1, "vocab.json is a link out of"),
    calibration_evaluated: (1, "calibration.json differs from SHA256SUMS"),
    prepared_again: (1, "row 2: "),
    annotations_scored: (1, "`regions` is not"),
    annotations_continued: (1, "a.jsonl, line 1: not an annotation"),
    scores_of_calibration: (1, "a calibration has exactly the numbers"),
    sweep_continued: (1, "run.log is a link out of"),
}


@pytest.mark.slow
@pytest.mark.parametrize("build", KINDS, ids=lambda build: build.__name__)
def test_each_kind_reads_nothing_but_itself(
    build: Callable[[Stranger], Arguments], packed: Path, made: Made, tmp_path: Path
) -> None:
    it = Stranger(tmp_path, packed, made)
    module, *arguments = build(it)
    secret = {path: path.read_bytes() for path in it.secret.rglob("*") if path.is_file()}
    log = tmp_path / "audit"
    environment = watched.environment(log, tiny.environment()) | {"HOME": str(it.out)}
    texts = [str(argument) for argument in arguments]
    done = processes.run(f"launch.{module}", texts, environment, it.theirs, 300)
    status, words = KINDS[build]
    said = done.stdout + done.stderr
    assert done.returncode == status, said
    assert words in said, said
    assert "Traceback" not in said
    if status:
        assert done.stderr.splitlines()[-1].startswith("error: "), said
    assert not [c for c in said if not c.isprintable() and c not in "\n\t"], said
    assert {path: path.read_bytes() for path in it.secret.rglob("*") if path.is_file()} == secret
    assert not list(tmp_path.rglob("ran"))
    given = [
        it.theirs,
        it.out,
        packed.parent,
        *(path.parent for path in map(Path, texts) if path.is_file()),
    ]
    caches = [Path(environment["JAX_COMPILATION_CACHE_DIR"])]
    models = [folder.parent for folder in made("clip")] if "clip" in said + str(texts) else []
    wrong = [
        line
        for line in watched.faults(log, [*given, *models, *caches], it.theirs)
        if "/tmp/" not in line or str(it.secret) in line
    ]
    assert not wrong, wrong[:5]
    assert any(str(it.theirs) in line for line in log.read_text(errors="replace").splitlines())
