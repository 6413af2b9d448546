"""Every command with small inputs that it works on, and ways in which its surroundings are bad."""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from pathlib import Path

import jax
import numpy as np

from jax_vlffd.config import LossConfig
from jax_vlffd.evaluation.calibration import sigmoid
from jax_vlffd.evaluation.scores import Scores, to_csv
from launch.cli import streams
from tests.support import drawn_pairs, tiny, tiny_export

#: Letters that an ASCII terminal cannot show.
FOLDER = "größe 面"
#: The flag of each command's output, its kind, and further flags that it cannot do without.
OUTPUTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "annotate": ("out", "file", ("--pairs=none.csv",)),
    "bench": ("out", "file", ("records",)),
    "calibrate_fftg": ("report", "file", ("--faces=none", "--heldout=none")),
    "compile": ("out", "file", ("--config=configs/demo.py", "--topology=cpu:8")),
    "convert": ("out", "file", ("--to=llava", "--annotations=none.jsonl")),
    "demo": ("out", "folder", ()),
    "evaluate": ("out", "folder", ("--from_scores=none.csv",)),
    "export": ("out", "folder", ("--workdir=none",)),
    "forge": ("out", "folder", ()),
    "pack": ("out", "folder", ("--annotations=none.jsonl",)),
    "predict": ("out", "file", ("--checkpoint=none", "none.png")),
    "prepare": ("out", "folder", ("--dataset=folder", "--root=none")),
    "score_annotations": ("out", "file", ("--annotations=none.jsonl",)),
    "score_reasons": ("out", "file", ("--workdir=none", "--data=a=none", "--validation=none")),
    "sweep": ("workdir", "folder", ("--config=configs/demo.py",)),
    "train": ("workdir", "folder", ("--config=configs/demo.py",)),
}


class Kit:
    """Inputs in a folder, made once; the packed set is given."""

    def __init__(self, folder: Path, packed: Path) -> None:
        self.folder = folder / FOLDER
        self.folder.mkdir(parents=True)
        self.packed = packed
        self.pairs = drawn_pairs.make_pairs(self.folder / "pairs", 3)
        rng = np.random.default_rng(0)
        label = np.arange(200) % 2
        columns = [np.full(200, text) for text in ("FF", "test")]
        method = np.where(label == 1, "Deepfakes", "real")
        name = np.arange(200).astype(str)
        scores = Scores(*columns, method, name, name, name, label, sigmoid(rng.normal(size=200)))
        (self.folder / "scores.csv").write_text(to_csv({"": scores}))
        words = [{"id": str(n), "caption": "The mouth is blurred."} for n in range(3)]
        (self.folder / "words.jsonl").write_text("".join(json.dumps(line) + "\n" for line in words))
        truth = "".join(f"{n},0,0,0,1,0\n" for n in range(3))
        (self.folder / "truth.csv").write_text(f"id,left_eye,right_eye,nose,mouth,face\n{truth}")
        self.workdir = tiny_export.make_workdir(self.folder / "trained", packed)
        loss = LossConfig(alignment=0, fusion=0)
        settings = tiny.settings(packed, loss=loss, duration="2 steps", evaluate_every="1 steps")
        self.recipe = tiny.write_recipe(self.folder / "recipe.py", *settings)
        with self.recipe.open("a") as file:
            file.write("\n\ndef get_sweep():\n    return [{'seed': 1}]\n")

    def arguments(self, command: str, out: Path) -> list[str]:
        """The flags of a command that works, and writes below `out`."""
        reals = self.pairs.parent / "real"
        flags = {
            "annotate": [f"--pairs={self.pairs}", f"--out={out / 'lines.jsonl'}", "--workers=1"],
            "calibrate_fftg": [
                f"--faces={reals}", f"--heldout={reals}", "--plants=50", f"--report={out / 'r.md'}"
            ],
            "compile": [f"--config={self.recipe}", "--topology=cpu:2", f"--out={out / 'c.json'}"],
            "convert": [
                "--to=llava", f"--annotations={self.packed.parent / 'train/annotations.jsonl'}",
                f"--root={self.packed.parent}", "--balance", f"--out={out / 'q.json'}",
            ],
            "demo": [f"--out={out / 'demo'}", "--people=12", "--steps=4"],
            "evaluate": [
                f"--from_scores=größe={self.folder / 'scores.csv'}", "--bootstrap=0", f"--out={out / 'e'}"
            ],
            "export": [f"--workdir={self.workdir}", f"--out={out / 'exported'}"],
            "forge": [f"--out={out / 'forged'}", "--identities=10", "--workers=1"],
            "pack": [
                f"--annotations={self.packed.parent / 'train/annotations.jsonl'}", f"--out={out / 'set'}"
            ],
            "predict": [
                f"--checkpoint={self.workdir}", "--crops", f"--out={out / 'p.jsonl'}",
                *map(str, sorted(reals.glob("*.png"))),
            ],
            "prepare": [
                "--dataset=folder", f"--root={self.folder / 'pairs'}", f"--out={out / 'prepared'}",
                "--workers=1",
            ],
            "score_annotations": [
                f"--annotations={self.folder / 'words.jsonl'}", f"--out={out / 's.json'}",
                f"--truth={self.folder / 'truth.csv'}",
            ],
            "score_reasons": [
                f"--workdir={self.workdir}", f"--data=x={self.packed}", "--split=validation",
                f"--validation={self.packed}", f"--out={out / 's.json'}",
            ],
            "sweep": [f"--config={self.recipe}", f"--workdir={out / 'sweep'}", "--bootstrap=0"],
            "train": [f"--config={self.recipe}", f"--workdir={out / 'run'}"],
        }  # fmt: skip
        return flags[command]


def nobody_reads() -> None:
    """An ASCII terminal, a reader that has gone, and no stderr."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer, 1)
    sys.stdout = io.TextIOWrapper(io.FileIO(1, "wb", closefd=False), "ascii", write_through=True)
    os.close(2)
    sys.stderr = None  # type: ignore[assignment]  # as Python has it then
    streams.open_closed()  # as the package does before all else where it is run by `python -m`


def ascii_only() -> None:
    """Streams that take ASCII alone, strictly."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = io.TextIOWrapper(
            io.FileIO(number, "wb", closefd=False), "ascii", write_through=True
        )
        setattr(sys, name, stream)


def small_disk() -> None:
    """No file may get larger than 600 bytes, as on a disk that gets full: root has no other limit."""
    # Python and JAX would leave cut files in their caches.
    sys.dont_write_bytecode = True
    os.environ |= {"PYTHONDONTWRITEBYTECODE": "1", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    jax.config.update("jax_enable_compilation_cache", False)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
