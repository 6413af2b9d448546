"""Measures speed against a peer, both in one run, and writes JSON.

python -m launch.bench fftg [--pairs=48] [--out=FILE.json]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from absl import flags

from launch import bench_fftg, cli

FLAGS = flags.FLAGS
flags.DEFINE_string("out", None, "JSON file for the figures; they are printed in any case.")
flags.adopt_module_key_flags(bench_fftg)

#: What can be measured.
_BENCHES: Final[dict[str, Callable[[], dict[str, Any]]]] = {"fftg": bench_fftg.measure}


def main(argv: Sequence[str]) -> None:
    """Runs the bench that is named."""
    import json

    from data_pipeline.errors import UserError
    from data_pipeline.files import atomic_write_text

    if len(argv) != 2 or argv[1] not in _BENCHES:
        raise UserError(f"name one bench: python -m launch.bench {{{','.join(_BENCHES)}}}")
    text = json.dumps(_BENCHES[argv[1]](), indent=2)
    if FLAGS.out:
        atomic_write_text(FLAGS.out, text + "\n")
    print(text)


if __name__ == "__main__":
    cli.run(main)
