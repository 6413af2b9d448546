"""The whole road in three minutes: draw, pack, train, evaluate, report. `make demo` runs it.

The figures it must reach: frame AUC of 0.95 on kinds of forgery seen, of 0.80 on kinds unseen.
Every step is one of the other commands; each is printed before it runs, so that it can be repeated alone.
The detector with three branches stands beside the same model trained on images alone.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command

_OUT = flags.DEFINE_string(
    "out", "runs/demo", "Folder of the demo; one that is there is continued."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the drawn faces, the parameters and the data order.")
_PEOPLE = flags.DEFINE_integer(
    "people", None, "People to draw; as many as launch.forge draws.", lower_bound=10
)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Training steps of each model; those of configs/demo.py.", lower_bound=4
)

_IMAGE_ONLY = ("--config.loss.alignment=0", "--config.loss.fusion=0")


def main(argv: Sequence[str]) -> None:
    """Runs every step, then says what came out."""
    out, seed = Path(_OUT.value), _SEED.value
    started = time.monotonic()
    drawn, seen, unseen = out / "drawn", out / "seen", out / "unseen"
    three, image, report = out / "three_branches", out / "image_only", out / "report"
    if not drawn.exists():
        _step(
            "draw faces and plant forgeries in them", "forge",
            f"--out={drawn}", f"--seed={seed}",
            *([] if _PEOPLE.value is None else [f"--identities={_PEOPLE.value}"]),
        )  # fmt: skip
    for name, packed in (("annotations", seen), ("unseen", unseen)):
        if not packed.exists():
            _step("pack", "pack", f"--annotations={drawn / name}.jsonl", f"--out={packed}")
    common = [
        "--config=configs/demo.py",
        f"--config.data.train={seen}",
        f"--config.data.validation={seen}",
        f"--config.seed={seed}",
    ]
    if _STEPS.value is not None:
        common += [
            f"--config.train.duration={_STEPS.value} steps",
            f"--config.train.evaluate_every={_STEPS.value // 4} steps",
        ]
    _step("train with language: three branches", "train", *common, f"--workdir={three}")
    _step("train without language", "train", *common, f"--workdir={image}", *_IMAGE_ONLY)
    _step(
        "evaluate on people never seen, with kinds of forgery seen and unseen", "evaluate",
        f"--workdir={three}", "--name=three branches", f"--compare=image only={image}",
        f"--data=seen={seen}", f"--data=unseen={unseen}", f"--out={report}", "--bootstrap=500",
    )  # fmt: skip
    metrics = json.loads((report / "metrics.json").read_text("utf-8"))
    print(f"\ndone in {time.monotonic() - started:.0f} s; frame AUC on held-out people:")
    for name, sets in (
        ("three branches", metrics["sets"]),
        ("image only", metrics["others"]["image only"]["sets"]),
    ):
        values = "  ".join(f"{key} kinds {found['frame_auc']:.3f}" for key, found in sets.items())
        print(f"  {name:15} {values}")
    print(f"open {report / 'report.html'}")


def _step(title: str, module: str, *arguments: str) -> None:
    from jax_vlffd.errors import UserError

    line = [sys.executable, "-m", f"launch.{module}", *arguments]
    print(f"\n== {title}\n$ python -m launch.{module} {shlex.join(arguments)}", flush=True)
    began = time.monotonic()
    status = subprocess.run(line, check=False).returncode
    if status:
        raise UserError(
            f"the step launch.{module} ended with status {status}; its message is above"
        )
    print(f"   {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    command.run(main)
