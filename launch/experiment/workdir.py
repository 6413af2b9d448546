"""Runs on disk: what a workdir holds, and how a trained detector is read back from it."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.core.files import atomic_write_text
from data_pipeline.loading.loader import EvalLoader
from data_pipeline.loading.settings import DataSettings
from data_pipeline.loading.tokenizer import Tokenizer
from jax_vlffd.config import MeshConfig, ModelConfig, RunConfig
from jax_vlffd.contained import check_contained
from jax_vlffd.errors import UserError
from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.evaluation.scores import Scores
from jax_vlffd.explanation import Explainer
from jax_vlffd.inference import trained as pretrained
from launch.experiment import config as configs
from launch.experiment import explanations, remote_workdir, training_data

if TYPE_CHECKING:  # JAX is imported when a run is loaded, not when a flag is parsed
    from jax_vlffd.model import Parameters
    from jax_vlffd.training.state import Plan

#: Names within a workdir.
CONFIG, CHECKPOINTS = pretrained.CONFIG, pretrained.CHECKPOINTS
CALIBRATION, EXPLANATION = pretrained.CALIBRATION, pretrained.EXPLANATION
TOKENIZER, SUMMARY = "tokenizer", "summary.json"

Transform = Callable[[np.ndarray], np.ndarray]


def is_begun(workdir: Path) -> bool:
    """Whether a workdir holds a checkpoint: a run goes on from there, and before that nothing is lost."""
    folder = remote_workdir.origin(workdir) / CHECKPOINTS
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


def make_plan(
    run: RunConfig,
    data: DataSettings,
    *,
    steps: int,
    warmup_steps: int = 0,
    devices: list[Any] | None = None,
) -> Plan:
    """The static side of a run on the devices there are.

    Args:
      run: the settings.
      data: the settings of the data.
      steps: of the whole run.
      warmup_steps: of these, as `optim.warmup` says; at most all but one.
      devices: all by default.

    Raises:
      UserError: the batch or the model does not divide over the mesh.
    """
    from jax_vlffd.training import sharding, state

    built = sharding.make_mesh(run.mesh, devices)
    sharding.check_batch(data.batch_size, built, run.train.accumulate)
    spec = state.StepSpec(
        run.model, run.loss, data.fused_caption != "full", accumulate=run.train.accumulate
    )
    return state.make_plan(
        spec, built, run.tuning, run.optim, steps=steps, warmup_steps=min(warmup_steps, steps - 1)
    )


def mask_grid(run: RunConfig) -> int:
    """Patches along a side of the image where the run learns from forgery masks, else 0."""
    return run.model.clip.vision.grid if run.loss.local > 0 else 0


def peak_share(run: RunConfig, data: DataSettings) -> Callable[[int], float]:
    """Tokens of a text -> the share of all devices' peak arithmetic that one image a second takes.

    0 for unknown devices.
    """
    import jax

    from jax_vlffd.compilation.chips import chip_of, count_chips
    from jax_vlffd.compilation.flops import model_flops

    chip = chip_of(jax.devices()[0].device_kind)
    if chip is None:
        return lambda text_length: 0.0
    peak = chip.peak_flops * count_chips(jax.devices())

    @functools.cache
    def share(text_length: int) -> float:
        cost = model_flops(
            run.model, run.loss, run.tuning, batch_size=data.batch_size,
            separate_captions=data.fused_caption != "full", text_length=text_length,
        )  # fmt: skip
        return cost.total.train / peak

    return share


def with_tokenizer(run: RunConfig, tokenizer: Tokenizer) -> RunConfig:
    """The settings with the text tower's end token set to the tokenizer's.

    Raises:
      UserError: the tokenizer has more words than the text tower.
    """
    clip = run.model.clip
    if tokenizer.vocab_size > clip.text.vocab_size:
        raise UserError(
            f"the tokenizer has {tokenizer.vocab_size} tokens and model.text.vocab_size is "
            f"{clip.text.vocab_size}; raise it, or give the tokenizer of this model by data.tokenizer"
        )
    text = dataclasses.replace(clip.text, eos_id=tokenizer.eos_id)
    model = dataclasses.replace(run.model, clip=dataclasses.replace(clip, text=text))
    return dataclasses.replace(run, model=model)


class Scorer:
    """Scores packed sets by the image branch; compiles once, on every process alike.

    Args:
      plan: the run's static side.
      data: batch size, workers.
      tokenizer: of the run.
    """

    def __init__(self, plan: Plan, data: DataSettings, tokenizer: Tokenizer):
        from jax_vlffd.training.step import make_eval_step

        self.plan, self.tokenizer, self._data = plan, tokenizer, data
        self._step = make_eval_step(plan)

    def score(
        self,
        parameters: Parameters,
        folder: str | Path,
        split: str,
        transform: Transform | None = None,
        methods: Sequence[str] = (),
        tick: Callable[[], None] = lambda: None,
    ) -> Scores:
        """Scores every record of a split once; padding and images that do not decode never count.

        Args:
          parameters: in the plan's shardings.
          folder: of the packed set.
          split: of it.
          transform: applied to each decoded image uint8 [H, W, 3] before it is resized.
          methods: of the fakes that are scored, beside all reals; all when empty.
          tick: called before each batch; may raise.

        Raises:
          UserError: the set or the split is missing or empty, or lacks one of the methods.
        """
        from jax_vlffd.evaluation.calibration import sigmoid
        from jax_vlffd.training.loop import evaluate
        from jax_vlffd.training.sharding import data_share

        clip, data = self.plan.spec.model.clip, self._data
        index, count = data_share(self.plan.mesh)
        loader = EvalLoader(
            folder, split,
            image_size=clip.vision.image_size, tokenizer=self.tokenizer,
            text_length=clip.text.context_length, batch_size=data.batch_size,
            process_index=index, process_count=count,
            workers=data.workers, prefetch=data.prefetch, corrupt=transform, methods=methods,
            captions="label_only",  # the image branch reads none, so a set without captions serves too
        )  # fmt: skip
        found = evaluate(self._step, parameters, iter(loader), self.plan, tick)
        records = list(loader.metadata(found["index"]))
        logits = found["logits"].astype(np.float64)
        margin = logits[:, 1] - logits[:, 0]
        return Scores(
            dataset=np.array([r.dataset for r in records]),
            split=np.array([split] * len(records)),
            method=np.array([r.method for r in records]),
            video=np.array([r.video for r in records]),
            frame=np.array([r.frame for r in records]),
            id=np.array([r.id for r in records]),
            label=found["label"],
            probability=sigmoid(margin),
            logit=margin,
            regions=np.array([r.regions for r in records]),
            caption=np.array([r.captions[0] if r.captions else "" for r in records]),
            types=np.array([r.types for r in records], dtype=bool),
            embedding=found.get("embedding"),
        )


@dataclass(frozen=True)
class Run:
    """A trained detector, ready to score.

    name: of its workdir. config: as resolved when it was trained. model: the settings of the model, its end
    token that of the tokenizer. step: of the checkpoint. history: the lines of metrics.jsonl. calibration:
    fitted on the validation split, None where there was none. explainer: its bank of sentences, None where
    the alignment branch was off. methods: of forgery, that it was trained on; empty where they are not known.
    trained: what it was trained and validated on, as `training_data.read` gives it; None where that is not
    known.
    """

    name: str
    config: Mapping[str, Any]
    model: ModelConfig
    tokenizer: Tokenizer
    scorer: Scorer
    parameters: Parameters
    step: int
    history: list[dict[str, float]]
    calibration: Calibration | None
    explainer: Explainer | None = None
    methods: tuple[str, ...] = ()
    trained: Mapping[str, Any] | None = None

    def score(self, folder: str | Path, split: str, transform: Transform | None = None) -> Scores:
        """Scores a packed set's split, with reasons where it has a bank; see `Scorer.score`."""
        scores = self.scorer.score(self.parameters, folder, split, transform)
        return explanations.with_reasons(scores, self.explainer, self.calibration)


def require_run(workdir: Path) -> dict[str, Any]:
    """The config of a trained workdir or an exported folder; nothing large is read.

    Raises:
      UserError: it is neither, has no checkpoint yet, or a link leads out of it.
    """
    from jax_vlffd.export import folder as exported

    if workdir.is_dir():
        check_contained(workdir)
    config, is_export = configs.read_saved(workdir), exported.is_export(workdir)
    if config is None or not (is_export or (remote_workdir.origin(workdir) / CHECKPOINTS).is_dir()):
        raise UserError(
            f"{workdir} is no trained workdir and no export; give the --workdir of launch.train, or the "
            "--out of launch.export"
        )
    if not is_export and not is_begun(workdir):
        raise UserError(f"{workdir} has no checkpoint yet; let launch.train reach its first")
    return config


def run_name(workdir: Path) -> str:
    """What a run is called: its workdir's name, also after it was exported to a folder of another name."""
    from jax_vlffd.export import folder as exported

    if not exported.is_export(workdir):
        return workdir.name
    return str(exported.read_manifest(workdir).get("name", workdir.name))


def load_run(
    workdir: Path,
    step: str = "best",
    train_data: Sequence[str] = (),
    validation: Sequence[str] = (),
) -> Run:
    """Reads a workdir's `best` or `latest` checkpoint, or an exported folder, onto the devices there are.

    No folder is opened that its config names: it may be a stranger's.

    Args:
      workdir: or an exported folder.
      step: which checkpoint of a workdir.
      train_data: packed sets that the user says it was trained on, where it was made by a version that did not
        keep that.
      validation: those that it was validated on, likewise.

    Raises:
      UserError: it is neither, has no checkpoint yet, or is damaged; or a set that is named is none.
    """
    import jax

    from jax_vlffd.export import folder as exported
    from jax_vlffd.training.metric_writer import read_history

    config = require_run(workdir)
    manifest = exported.read_manifest(workdir) if exported.is_export(workdir) else None
    run, data = configs.settings(config)
    tokenizer = Tokenizer.load(workdir / TOKENIZER)
    run = with_tokenizer(run, tokenizer)
    # The mesh and the batch are those of the machine that evaluates, not of the one that trained.
    run = dataclasses.replace(
        run, mesh=MeshConfig(), train=dataclasses.replace(run.train, accumulate=1)
    )
    ways = jax.device_count()
    size = max(data.batch_size // ways, 1) * ways
    data = dataclasses.replace(data, batch_size=size, paired=False)
    plan = make_plan(run, data, steps=1)
    trained = training_data.read(workdir)
    if trained is None and (train_data or validation):
        trained = training_data.describe_sets(train_data, validation, data.methods)
    methods = (training_data.methods(trained) if trained else ()) or data.methods
    if manifest is None:
        parameters, found = _from_checkpoint(workdir, plan, step)
    else:
        parameters = exported.load_parameters(workdir, plan.abstract.parameters)
        found = manifest["step"]
        # Of exports made before that was kept.
        methods = methods or tuple(map(str, manifest.get("methods") or ()))
    return Run(
        run_name(workdir), config, run.model, tokenizer, Scorer(plan, data, tokenizer), parameters, found,
        read_history(workdir), pretrained.read_calibration(workdir),
        pretrained.read_explainer(workdir), methods, trained,
    )  # fmt: skip


def _from_checkpoint(workdir: Path, plan: Plan, step: str) -> tuple[Parameters, int]:
    from jax_vlffd.training.checkpoints import Checkpoints

    with Checkpoints(remote_workdir.origin(workdir) / CHECKPOINTS, read_only=True) as checkpoints:
        found = checkpoints.best if step == "best" else checkpoints.latest
        if found is None:
            raise UserError(f"{workdir} has no checkpoint yet; let launch.train reach its first")
        return checkpoints.restore_parameters(plan.abstract.parameters, found), found


def save_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes `config.json`: the resolved config, and the versions of what ran it."""
    content = {"config": config, "versions": configs.versions()}
    atomic_write_text(workdir / CONFIG, json.dumps(content, indent=2) + "\n")
