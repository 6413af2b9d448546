"""Trains a detector: python -m launch.train --config=configs/X.py --workdir=DIR [--config.key=value].

The same command continues a run that was stopped. In WORKDIR: config.json, checkpoints/, metrics.jsonl,
TensorBoard events, tokenizer/, heartbeat.json, and at the end calibration.json, summary.json and, with the
alignment branch, explanation.safetensors: the sentences that reasons are made of.

On a TPU pod and under SLURM the processes connect by themselves; elsewhere each needs --coordinator,
--num_processes and --process_id. SIGTERM or Ctrl-C saves and ends the run, with status 0. See
docs/operations.md.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from launch.cli import command
from launch.cli.outputs import RUN
from launch.experiment import distributed, remote_workdir, training

_CONFIG = config_flags.DEFINE_config_file("config", None, "The recipe, as configs/demo.py.")
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of the run, or gs://BUCKET/RUN; created if missing."
)
_PROFILE = flags.DEFINE_string(
    "profile", "", "START:STOP: trace these steps for TensorBoard's profiler, into WORKDIR/profile."
)
_GRACE = flags.DEFINE_float(
    "grace",
    25.0,
    "Most seconds from SIGTERM or Ctrl-C to the end; less than the scheduler waits.",
    1.0,
)
_STALL = flags.DEFINE_float(
    "stall", 300.0, "Seconds without progress until a warning; 0 for no warning.", 0.0
)
flags.mark_flags_as_required(["config", "workdir"])


def main(argv: Sequence[str]) -> None:
    """Trains or continues the run of --workdir."""
    from jax_vlffd.training.preemption import Preempted, stops_on_signals
    from launch.experiment import config as configs

    run, data = configs.settings(_CONFIG.value)
    values = json.loads(_CONFIG.value.to_json())
    monitoring = training.Monitoring(_span(_PROFILE.value), _STALL.value)
    address = _WORKDIR.value or ""  # a required flag
    with (
        distributed.joined(values, preemption=True) as peers,
        remote_workdir.local(address) as workdir,
    ):
        if configs.read_saved(workdir) is None:  # a started run goes on unchanged
            configs.check_effect(values, config_flags.get_override_values(flags.FLAGS["config"]))
        try:
            with stops_on_signals(peers, _GRACE.value):
                command.use_compilation_cache()
                training.train(run, data, workdir, values, peers, monitoring)
        except Preempted as stopped:
            if peers.index == 0:
                reason = peers.reason or "a notice of the platform"
                print(f"{stopped}: {reason}; the same command goes on from there; {address}")


def _span(text: str) -> tuple[int, int]:
    from jax_vlffd.errors import UserError

    if not text:
        return 0, 0
    first, _, last = text.partition(":")
    if not (first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise UserError(f"--profile={text}: give the first and the last step, such as 10:20")
    return int(first), int(last)


if __name__ == "__main__":
    command.run(main, writes={"workdir": RUN})
