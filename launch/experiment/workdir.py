"""Workdirs: file names, and loading a trained detector from a workdir or an export to score sets."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd.config import MeshConfig, on_any_device
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.scores import Scores
from jax_vlffd.export import folder as exported
from jax_vlffd.file_writing import atomic_write_text
from jax_vlffd.inference import trained as pretrained
from jax_vlffd.inference.trained import TrainedModel
from launch.experiment import config as configs
from launch.experiment import explanations, remote_workdir, training_data
from launch.experiment.plan import make_plan, with_tokenizer
from launch.experiment.scorer import Scorer, Transform

if TYPE_CHECKING:  # JAX is imported when a run is loaded, not when a flag is parsed
    from jax_vlffd.model import Parameters

#: Names within a workdir.
CONFIG, CHECKPOINTS = pretrained.CONFIG, pretrained.CHECKPOINTS
CALIBRATION, EXPLANATION = pretrained.CALIBRATION, pretrained.EXPLANATION
TOKENIZER, SUMMARY = "tokenizer", pretrained.SUMMARY


def is_begun(workdir: Path) -> bool:
    """Whether a workdir has a checkpoint, from which its run continues."""
    return pretrained.has_checkpoint(_checkpoints(workdir))


def _checkpoints(workdir: Path) -> Any:
    return remote_workdir.origin(workdir) / CHECKPOINTS


@dataclass(frozen=True, kw_only=True)
class TrainedRun(TrainedModel):
    """A trained detector with its parameters on all devices, ready to score.

    config: as resolved in training. tokenizer: of the run. history: the lines of metrics.jsonl. methods: of
    forgery, in the training sets; empty where unknown. trained: its training and validation sets as
    `training_data.read` returns them, or None.
    """

    parameters: Parameters
    config: Mapping[str, Any]
    tokenizer: Tokenizer
    scorer: Scorer
    history: list[dict[str, float]]
    methods: tuple[str, ...] = ()
    trained: Mapping[str, Any] | None = None

    def score(self, folder: str | Path, split: str, transform: Transform | None = None) -> Scores:
        """Scores a packed set's split, with reasons if the run has a bank; see `Scorer.score`.

        Pictures that a transform changes get no reasons: nothing reads them.
        """
        scores = self.scorer.score(self.parameters, folder, split, transform)
        if transform is not None:
            return scores
        return explanations.with_reasons(scores, self.explainer, self.calibration)


def require_run(workdir: Path) -> dict[str, Any]:
    """Reads the config of a trained workdir or an export, and nothing large.

    Raises:
      UserError: it is neither, has no checkpoint yet, or a link leads out of it.
    """
    pretrained.check_trained(workdir, _checkpoints(workdir))
    config = configs.read_saved(workdir)
    if config is None:
        raise UserError(f"{workdir / CONFIG} is missing; copy the whole export again")
    return config


def load_run(
    workdir: Path,
    step: str = "best",
    train_data: Sequence[str] = (),
    validation: Sequence[str] = (),
) -> TrainedRun:
    """Loads a workdir's `best` or `latest` checkpoint, or an export, onto all devices.

    Folders that its config names are not opened: a workdir is untrusted.

    Args:
      workdir: or an exported folder.
      step: which checkpoint of a workdir.
      train_data: packed sets that it was trained on, if it was made by a version that did not record them.
      validation: packed sets that it was validated on, likewise.

    Raises:
      UserError: it is neither, has no checkpoint yet, or is damaged; or a folder is not a packed set.
    """
    import jax

    from jax_vlffd.training.metric_writer import read_history

    config = require_run(workdir)
    run, data = configs.settings(config, saved=True)
    tokenizer = Tokenizer.load(workdir / TOKENIZER)
    run = with_tokenizer(run, tokenizer)
    # The mesh and the batch are those of the machine that evaluates, not of the one that trained.
    run = dataclasses.replace(
        run, model=on_any_device(run.model), mesh=MeshConfig(),
        train=dataclasses.replace(run.train, accumulate=1),
    )  # fmt: skip
    batch_shards = jax.device_count()
    size = max(data.batch_size // batch_shards, 1) * batch_shards
    data = dataclasses.replace(data, batch_size=size, paired=False)
    plan = make_plan(run, data, steps=1)
    read = pretrained.open_trained(
        workdir, step, checkpoints=_checkpoints(workdir), abstract=plan.abstract.parameters
    )
    trained = training_data.read(workdir)
    if trained is None and (train_data or validation):
        trained = training_data.describe_sets(train_data, validation, data.methods)
    methods = (training_data.methods(trained) if trained else ()) or data.methods
    if not methods and exported.is_export(workdir):  # older exports
        methods = tuple(map(str, exported.read_manifest(workdir).get("methods") or ()))
    return TrainedRun(
        **vars(read) | {"model": run.model}, config=config, tokenizer=tokenizer,
        scorer=Scorer(plan, data, tokenizer), history=read_history(workdir), methods=methods,
        trained=trained,
    )  # fmt: skip


def save_config(
    workdir: Path, config: Mapping[str, Any], weights: Mapping[str, Any] | None = None
) -> None:
    """Writes `config.json`: the resolved config, the versions of what ran it, and the pretrained weights.

    Args:
      workdir: of the run.
      config: as resolved.
      weights: of `training_data.initial_weights`, with commit and digests; None for none.
    """
    content = {"config": config, "versions": configs.versions(), "initial_weights": weights}
    atomic_write_text(workdir / CONFIG, json.dumps(content, indent=2) + "\n")
