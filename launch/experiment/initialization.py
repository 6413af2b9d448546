"""Run initialization: tokenizer, initial state, data position."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.loading.loader import TrainIterator
    from data_pipeline.loading.settings import DataSettings
    from data_pipeline.loading.tokenizer import Tokenizer
    from jax_vlffd.config import RunConfig
    from jax_vlffd.training.checkpoints import Checkpoints
    from jax_vlffd.training.loop import Clock
    from jax_vlffd.training.processes import SingleProcess
    from jax_vlffd.training.state import TrainPlan, TrainState

#: Records whose captions a tokenizer is trained on, when the run has none.
_TOKENIZER_RECORDS = 20_000
#: Records of a set, evenly spread, whose captions are measured before training.
_MEASURED_RECORDS = 1000


def first_state(
    run: RunConfig, plan: TrainPlan, checkpoints: Checkpoints, iterator: TrainIterator
) -> tuple[TrainState, Clock]:
    """The first state, in order of precedence: own checkpoint > resume > pretrained > random.

    Args:
      run: the settings.
      plan: of the run.
      checkpoints: of its own workdir.
      iterator: moved to the position that belongs to the state.

    Raises:
      UserError: a checkpoint is missing, damaged, or of another model or other data.
    """
    import jax

    from jax_vlffd.clip import huggingface
    from jax_vlffd.errors import UserError
    from jax_vlffd.training import normalization
    from jax_vlffd.training.checkpoints import Checkpoints
    from jax_vlffd.training.loop import Clock
    from jax_vlffd.training.state import initial_state, load_pretrained
    from launch.experiment import workdir as runs

    if checkpoints.latest is not None:
        state, position = checkpoints.restore_newest(plan.abstract)
        iterator.set_state(position["data"])
        return state, Clock(**position["clock"])
    if run.init.resume:
        folder = Path(run.init.resume) / runs.CHECKPOINTS
        if not folder.is_dir():
            raise UserError(f"init.resume: {run.init.resume} is not a trained workdir")
        _check_same_model(run)
        with Checkpoints(folder, read_only=True) as others:
            if others.latest is None:
                raise UserError(f"init.resume: {run.init.resume} has no checkpoint yet")
            state, position = others.restore(plan.abstract, others.latest)
        iterator.set_state(position["data"])
        # A validation that was still due in that run is not repeated in this one.
        return state, Clock(**{**position["clock"], "due": False})
    source = run.init.clip or run.init.vit
    if not source:
        return initial_state(plan, run.seed), Clock()
    checkpoint = huggingface.open_checkpoint(source)
    if (checkpoint.clip is None) != bool(run.init.vit):
        kind, key = ("plain ViT", "init.vit") if checkpoint.clip is None else ("CLIP", "init.clip")
        raise UserError(f"{source} is a {kind}; give it as {key}")
    for note in normalization.check(checkpoint.folder, run.model):
        if jax.process_index() == 0:
            print(f"note: {note}", flush=True)
    return initial_state(plan, run.seed, load_pretrained(plan, checkpoint)), Clock()


def with_commit(run: RunConfig, commit: str | None) -> RunConfig:
    """The run with its hub id at a commit, so that weights and tokenizer are of the same one."""
    from jax_vlffd import hub

    init = {name: hub.pinned(getattr(run.init, name), commit) for name in ("clip", "vit")}
    return dataclasses.replace(run, init=dataclasses.replace(run.init, **init))


#: Model settings that only change how it is computed, and the one that its tokenizer decides.
_FREE = (
    "compute.dtype",
    "compute.remat",
    "compute.unroll",
    "compute.attention",
    "compute.pad_to_multiple_of",
)
_OF_TOKENIZER = "clip.text.eos_id"


def _check_same_model(run: RunConfig) -> None:
    """Checks that the run of `init.resume` is of the same model, also where shapes agree.

    Raises:
      UserError: settings differ; names each.
    """
    from jax_vlffd.errors import UserError
    from launch.experiment import config as configs

    saved = configs.read_saved(Path(run.init.resume))
    if saved is None:
        return
    other, _ = configs.settings(saved, saved=True)
    before, now = (
        # In JSON, lists and tuples are equal.
        json.loads(json.dumps(configs.flat(dataclasses.asdict(each.model))))
        | {"loss.targets": each.loss.targets}
        for each in (other, run)
    )
    wrong = [
        f"{key.removeprefix('clip.')} {before[key]!r} -> {value!r}"
        for key, value in now.items()
        if before[key] != value and key not in (*_FREE, _OF_TOKENIZER)
    ]
    if wrong:
        raise UserError(
            f"init.resume: {run.init.resume} is of another model ({', '.join(wrong)}); give the model of that "
            "run, or begin without init.resume"
        )


def tokenizer_of(
    run: RunConfig, data: DataSettings, workdir: Path, peers: SingleProcess
) -> Tokenizer:
    """The tokenizer of the run; else of the run it resumes, the config, the checkpoint, or trained on captions.

    Nothing is written: a failed start must not decide the vocabulary of the next one.
    """
    from data_pipeline.loading.tokenizer import MIN_VOCABULARY, Tokenizer, train_tokenizer
    from data_pipeline.packed.reader import PackedSplit
    from jax_vlffd.errors import UserError
    from launch.experiment import workdir as runs

    for folder in (workdir, *([Path(run.init.resume)] if run.init.resume else [])):
        if runs.is_begun(folder):
            return Tokenizer.load(folder / runs.TOKENIZER)
    if data.tokenizer or run.init.clip:
        return Tokenizer.load(data.tokenizer or run.init.clip)

    def captions() -> Iterator[str]:
        for folder, _ in data.train:
            split = PackedSplit(folder, "train")
            for row in range(min(len(split), _TOKENIZER_RECORDS)):
                yield from split[row].captions

    size = run.model.clip.text.vocab_size
    if size < MIN_VOCABULARY:
        raise UserError(
            f"model.text.vocab_size is {size}, and a tokenizer of its own wants {MIN_VOCABULARY} at "
            "least; raise it, or name a tokenizer by data.tokenizer"
        )
    with tempfile.TemporaryDirectory() as made:
        aside = Path(made)
        if peers.index == 0:
            train_tokenizer(captions(), size, aside)
        # Trained once and shared, so that all hosts have the same vocabulary.
        files = peers.exchange({path.name: path.read_text("utf-8") for path in aside.iterdir()})
        for file, text in files[0].items():
            (aside / file).write_text(text, "utf-8")
        return Tokenizer.load(aside)


def count_cut_captions(
    run: RunConfig, data: DataSettings, tokenizer: Tokenizer, *, new: bool
) -> list[str]:
    """Measures captions as training draws them; says of each set of which some do not fit into the context.

    Args:
      run: the settings; without a branch that reads captions, none are measured.
      data: the settings of the data.
      tokenizer: of the run.
      new: whether the run begins; one that goes on keeps its context.

    Raises:
      UserError: a new run would cut most captions of a set: what tells them apart is mostly at their ends.
    """
    import numpy as np

    from data_pipeline.loading.examples import choose_caption
    from data_pipeline.packed.reader import PackedSplit
    from jax_vlffd.errors import UserError

    length, rng, lines = run.model.clip.text.context_length, np.random.default_rng(0), []
    for folder, _ in data.train if run.loss.uses_text else ():
        split = PackedSplit(folder, "train")
        rows = range(0, len(split), -(-len(split) // _MEASURED_RECORDS))
        counts = [
            tokenizer.count_tokens(choose_caption(split.sample(row), data.captions, rng)[0])
            for row in rows
        ]
        if cut := sum(count > length for count in counts):
            lines.append(
                f"{folder}: {cut} of {len(rows)} captions measured do not fit into the {length} tokens of "
                f"model.text.context_length (the longest has {max(counts)})"
            )
            if cut > len(rows) / 2 and new:
                raise UserError(
                    f"{lines[-1]}; raise it, or take shorter captions by data.captions=raw or label_only"
                )
    return lines


class GlobalIterator:
    """A data iterator whose counts of read and skipped records cover all processes.

    A position is the same for any number of processes, so a run may be continued with another number.

    Args:
      iterator: this process's share, at the position where the run begins.
      peers: the processes.
    """

    def __init__(self, iterator: TrainIterator, peers: SingleProcess):
        self._iterator, self._peers = iterator, peers
        if peers.index:  # a position's counts are global: only process 0 adds to them
            iterator.seen = iterator.bad = 0

    def __next__(self) -> Any:
        """The next batch of this process's share."""
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """The global position; all processes must call this."""
        counts = self._peers.exchange([self._iterator.seen, self._iterator.bad])
        seen, bad = (sum(column) for column in zip(*counts, strict=True))
        return {**self._iterator.get_state(), "seen": seen, "bad": bad}

    def set_state(self, state: dict[str, Any]) -> None:
        """Goes to a position."""
        self._iterator.set_state(state)
