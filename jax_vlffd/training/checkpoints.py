"""Checkpoints by Orbax: the newest and the best, each with everything that a resume needs.

A checkpoint `checkpoints/<step>` holds the parameters, the rest of the state, the position in the data and
the clock. It is written aside by Orbax and renamed when whole, so a run that is killed while saving
continues from the one before. Of a run of many processes each one has a `Checkpoints`, and all of them do
the same; the folder lies on storage that all of them share.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jax_vlffd.errors import UserError
from jax_vlffd.training import storage
from jax_vlffd.training.heartbeat import replace_text
from jax_vlffd.training.processes import SingleProcess
from jax_vlffd.training.state import TrainState
from jax_vlffd.training.storage import Damaged, Folder

#: The metric by which `best` is chosen, on the validation split.
BEST_METRIC = "auc"
#: Beside the folder of checkpoints: where damaged ones are put.
DAMAGED = "damaged_checkpoints"


class Checkpoints:
    """The checkpoints of one run, saved in the background.

    Args:
      folder: `WORKDIR/checkpoints`; made when missing, unless `read_only`.
      keep: how many of the newest stay; the best always does.
      read_only: open what is there and change nothing.
      peers: the other processes of the run.

    Raises:
      UserError: the metrics beside a checkpoint are damaged, and it is read only.
    """

    def __init__(
        self,
        folder: Folder,
        *,
        keep: int = 2,
        read_only: bool = False,
        peers: SingleProcess | None = None,
    ):
        self.folder = folder
        self._peers = peers or SingleProcess()
        self._failed: Exception | None = None
        broken = self._broken_metrics()
        if broken and read_only:
            raise next(iter(broken.values()))
        self._put_aside({path: str(error) for path, error in broken.items()})
        policy = checkpoint_managers.AnyPreservationPolicy(
            [
                checkpoint_managers.LatestN(keep),
                checkpoint_managers.BestN(
                    get_metric_fn=_best_metric, n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=_best_metric,
            # Orbax's own `read_only` would warn that it is, on every use.
            create=not read_only,
            # Orbax cleans up behind our back; when there is nothing to clean, a run that fails at its
            # start would end before that, with a traceback.
            cleanup_tmp_directories=not read_only and self._peers.exchange(self._torn())[0],
            enable_async_checkpointing=not read_only,
            async_options=ocp.AsyncOptions(barrier_sync_fn=storage.barrier),
        )
        self._manager = ocp.CheckpointManager(
            storage.for_orbax(folder),
            options=options,
            item_names=("parameters", "rest", "position"),
            item_handlers=None,
        )

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except UserError:
            if kind is None:  # else an error is on its way already, maybe this
                raise

    @property
    def latest(self) -> int | None:
        """The newest step saved, None when there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step with the highest validation AUC; the newest when none was ever validated."""
        scored = [info for info in self._manager.all_steps() if self._metric(info) is not None]
        return max(scored, key=lambda step: (self._metric(step), step)) if scored else self.latest

    def _metric(self, step: int) -> float | None:
        metrics = self._manager.metrics(step)
        return None if not metrics else metrics.get(BEST_METRIC)

    def save(
        self,
        state: TrainState,
        position: Mapping[str, Any],
        metrics: Mapping[str, float] | None,
    ) -> None:
        """Starts saving; returns as soon as the state may be changed again.

        A step that is saved already, because the run was stopped in its validation, is completed where it lies:
        at no moment is there less than before.

        Args:
          state: with concrete arrays.
          position: JSON-able: where the data iterator is, and the clock.
          metrics: validation metrics of this step, None when it was not validated.

        Raises:
          UserError: this or the save before could not be written.
        """
        step = int(state.step)
        try:
            if step in self._manager.all_steps():
                self._complete(step, position, metrics or {})
                return
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    parameters=ocp.args.StandardSave(state.parameters),
                    rest=ocp.args.StandardSave({"step": state.step, "optimizer": state.optimizer}),
                    position=ocp.args.JsonSave(dict(position)),
                ),
                metrics=dict(metrics or {}),  # Orbax warns of none
                force=True,
            )
            threading.Thread(target=self._wait_for_save, daemon=True).start()
        except Exception as error:  # Orbax, TensorStore and a bucket's client have each their own
            raise self._unsaved(error) from error

    def _wait_for_save(self) -> None:
        # Orbax's own `check_for_errors` would take the error from the thread that then deletes older steps.
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._failed = error

    def check(self) -> None:
        """Sees that the save in the background has not failed; waits for nothing.

        Raises:
          UserError: it could not be written.
        """
        if self._failed is not None:
            raise self._unsaved(self._failed) from self._failed

    def _complete(
        self, step: int, position: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Writes what a validation adds to a saved step: the metrics, then the position that they are in.

        Each file is replaced whole. Killed between the two, the validation is still due, and gives the same.
        """
        self._manager.wait_until_finished()
        if self._peers.index == 0:
            folder = self.folder / str(step)
            replace_text(folder / "metrics" / "metrics", json.dumps(dict(metrics)))
            replace_text(folder / "position" / "metadata", json.dumps(dict(position)))
        self._peers.exchange(None)
        self._manager.reload()

    def reached_preemption(self, step: int) -> bool:
        """Whether the platform gave notice by Orbax that this is the step to save and go; on all alike."""
        return bool(self._manager.reached_preemption(step))

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """The newest state that is whole. Damaged ones after it are put aside, and that is said aloud.

        Raises:
          UserError: none is whole, or one could not be read without being proved damaged.
        """
        put_aside: dict[Folder, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            problem, damaged, restored = "", True, None
            try:
                restored = self.restore(abstract, step)
            except UserError as error:
                problem, damaged = str(error), isinstance(error, Damaged)
            reports = self._peers.exchange([problem, damaged])
            problems = [text for text, _ in reports if text]
            for text, proved in reports:
                if not proved:
                    raise UserError(text)
            if restored is not None and not problems:
                if put_aside:
                    self._put_aside(put_aside)
                    self._manager.reload()
                    self._say(f"going on from step {step}")
                return restored
            put_aside[self.folder / str(step)] = problems[0]
        raise UserError(next(iter(put_aside.values()), f"{self.folder}: holds no checkpoint"))

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state, laid out as `abstract` says, and the position.

        Raises:
          UserError: the checkpoint is damaged or of another model.
        """
        rest = {"step": abstract.step, "optimizer": abstract.optimizer}
        restored = self._restore(
            step,
            parameters=ocp.args.StandardRestore(abstract.parameters),
            rest=ocp.args.StandardRestore(rest),
            position=ocp.args.JsonRestore(),
        )
        state = TrainState(restored.rest["step"], restored.parameters, restored.rest["optimizer"])
        return state, restored.position

    def restore_parameters(
        self, abstract: Mapping[str, jax.ShapeDtypeStruct], step: int
    ) -> dict[str, jax.Array]:
        """The parameters alone.

        Raises:
          UserError: the checkpoint is damaged or of another model.
        """
        restored = self._restore(step, parameters=ocp.args.StandardRestore(dict(abstract)))
        parameters: dict[str, jax.Array] = restored.parameters
        return parameters

    def _restore(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # TensorStore's own errors have no other base
            raise storage.unread(self.folder / str(step), error) from error

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          UserError: it could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax, TensorStore and a bucket's client have each their own
            raise self._unsaved(error) from error

    def close(self) -> None:
        """Waits, and lets go of the folder.

        Raises:
          UserError: the last save could not be written.
        """
        try:
            self._manager.close()
        except Exception as error:  # Orbax, TensorStore and a bucket's client have each their own
            raise self._unsaved(error) from error

    def _unsaved(self, error: Exception) -> UserError:
        return UserError(
            f"{self.folder}: a checkpoint could not be written ({storage.first_line(error)}); the last whole "
            "one is kept: make room or mend the storage, start again, and the run goes on from there"
        )

    def _torn(self) -> bool:
        """Whether a save was broken off: in a bucket, which cannot rename, it lacks its last file."""
        if isinstance(self.folder, Path):
            return any(self.folder.glob("*.orbax-checkpoint-tmp*"))
        whole = {path.parent.name for path in self.folder.glob("*/commit_success.txt")}
        return self.folder.is_dir() and any(p.name not in whole for p in self.folder.iterdir())

    def _broken_metrics(self) -> dict[Folder, UserError]:
        """Of each checkpoint whose metrics are damaged, what is wrong.

        Raises:
          UserError: metrics cannot be read, which proves nothing.
        """
        broken: dict[Folder, UserError] = {}
        for file in sorted(self.folder.glob("*/metrics/metrics")):
            try:
                json.loads(file.read_text("utf-8"))
            except (ValueError, OSError) as error:
                fault = storage.unread(file.parents[1], error)
                if not isinstance(fault, Damaged):
                    raise fault from error
                broken[file.parents[1]] = fault
        return broken

    def _put_aside(self, damaged: Mapping[Folder, str]) -> None:
        """Moves checkpoints out of the way, so that their steps can be saved anew."""
        self._peers.exchange(None)  # nobody still looks at what is moved
        for path, problem in damaged.items():
            place = self.folder.parent / DAMAGED
            self._say(f"{problem.split('; ')[0]}; moved to {place}")
            if self._peers.index == 0:
                place.mkdir(exist_ok=True)
                count = sum(1 for _ in place.glob("*"))
                path.rename(place / f"{path.name}.{count}")
        self._peers.exchange(None)

    def _say(self, text: str) -> None:
        if self._peers.index == 0:
            sys.stderr.write(f"warning: {text}\n")


def _best_metric(metrics: Mapping[str, float] | None) -> float:
    value = (metrics or {}).get(BEST_METRIC)
    return float("-inf") if value is None else float(value)
