"""Draws faces and plants forgeries in them: the demo's data set, ready for `launch.pack`.

`python -m launch.forge --out=DIR` writes `annotations.jsonl` (train, validation, test),
`unseen.jsonl` (kinds of forgery that training never shows), `pairs.csv` with the truth, the images,
their landmarks and masks. The same flags give the same files; what is not given is as
`data_pipeline.synthetic.dataset.DrawnSet` has it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from launch.cli import command
from launch.cli.outputs import FOLDER
from launch.cli.progress import progress

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "Folder to make.", required=True)
# No default but DrawnSet's.
flags.DEFINE_integer("identities", None, "People to draw.", lower_bound=10)
flags.DEFINE_integer("frames", None, "Pictures of each person.", lower_bound=1)
flags.DEFINE_integer("fakes", None, "Forgeries of each picture.", lower_bound=1, upper_bound=5)
flags.DEFINE_integer("size", None, "Side of a picture in pixels.", lower_bound=32, upper_bound=1024)
flags.DEFINE_integer("workers", os.cpu_count() or 1, "Processes that draw.", lower_bound=1)
flags.DEFINE_integer("seed", None, "Decides everything.", lower_bound=0)


def main(argv: Sequence[str]) -> None:
    """Draws the set that the flags describe."""
    del argv
    from data_pipeline.synthetic.dataset import DrawnSet, write_drawn_set

    start = time.monotonic()
    names = ("identities", "frames", "fakes", "size", "seed")
    overrides: dict[str, Any] = {n: FLAGS[n].value for n in names if FLAGS[n].value is not None}
    settings = DrawnSet(**overrides)
    with progress("drawing") as update:
        counts = write_drawn_set(Path(FLAGS.out), settings, update, workers=FLAGS.workers)
    pairs = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{FLAGS.out}: pairs of {pairs}; {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    command.run(main, writes={"out": FOLDER})
