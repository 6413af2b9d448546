"""The complete pipeline in three minutes: draw, pack, train, evaluate, report. `make demo` runs it.

Expected frame AUC: 0.95 on the kinds of forgery in the training set, 0.80 on unseen kinds. Every step is one of
the other commands, printed before it runs, so that it can be repeated. The detector with three branches is
compared with the same model trained on images alone.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from launch.cli import command, interrupts
from launch.cli.outputs import FOLDER

_OUT = flags.DEFINE_string("out", "runs/demo", "Folder of the demo; an existing one is continued.")
_SEED = flags.DEFINE_integer(
    "seed", 0, "Seed of the drawn faces, the parameters and the data order."
)
_PEOPLE = flags.DEFINE_integer(
    "people", None, "People to draw; by default as many as launch.forge draws.", lower_bound=10
)
_STEPS = flags.DEFINE_integer(
    "steps",
    None,
    "Training steps of each model; by default those of configs/demo.py.",
    lower_bound=4,
)

_IMAGE_ONLY = ("--config.loss.alignment=0", "--config.loss.fusion=0")


def main(argv: Sequence[str]) -> None:
    """Runs every step, then prints the results."""
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
        values = "  ".join(
            f"{key} kinds {measured['frame_auc']:.3f}" for key, measured in sets.items()
        )
        print(f"  {name:15} {values}")
    print(f"open {report / 'report.html'}")


def _step(title: str, module: str, *arguments: str) -> None:
    from jax_vlffd.errors import UserError

    print(f"\n== {title}\n$ python -m launch.{module} {shlex.join(arguments)}", flush=True)
    started = time.monotonic()
    status = interrupts.call([f"launch.{module}", *arguments])
    if status:
        raise UserError(
            f"the step launch.{module} ended with status {status}; its message is above"
        )
    print(f"   {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    command.run(main, writes={"out": FOLDER})
