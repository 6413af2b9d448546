"""Checkpoints by Orbax: the newest and the best, each with everything that a resume needs.

A checkpoint `checkpoints/<step>` holds the parameters, the rest of the state, the position in the data and
the clock. Orbax writes it under a temporary name and renames it when complete, so a run that is killed while
saving continues from the previous one. Digests of its files are kept with it and checked when it is read;
those of older versions have none. In a multi-host run each process has a `Checkpoints` and makes the same
calls; the folder is on shared storage.
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

from jax_vlffd import checksums
from jax_vlffd.errors import UserError
from jax_vlffd.training import storage
from jax_vlffd.training.heartbeat import replace_text
from jax_vlffd.training.processes import SingleProcess
from jax_vlffd.training.state import TrainState
from jax_vlffd.training.storage import DamagedCheckpoint, StoragePath

#: The metric by which `best` is chosen, on the validation split.
BEST_METRIC = "auc"
#: The folder beside that of the checkpoints to which damaged ones are moved.
DAMAGED = "damaged_checkpoints"


class Checkpoints:
    """The checkpoints of one run, saved in the background.

    Args:
      folder: `WORKDIR/checkpoints`; made when missing, unless `read_only`.
      keep: how many of the newest stay; the best always does.
      read_only: open what is there and change nothing.
      peers: the other processes of the run.

    Raises:
      UserError: a checkpoint's metrics are damaged, and `read_only` is set.
    """

    def __init__(
        self,
        folder: StoragePath,
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
        self._move_damaged({path: str(error) for path, error in broken.items()})
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
            # Orbax cleans up in a thread; with nothing to clean up, a run that fails at its start would end
            # before that thread does, with a traceback.
            cleanup_tmp_directories=not read_only
            and self._peers.exchange(self._has_partial_saves())[0],
            enable_async_checkpointing=not read_only,
            async_options=ocp.AsyncOptions(barrier_sync_fn=storage.barrier),
            temporary_path_class=storage.TemporaryPath if isinstance(folder, Path) else None,
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
            if kind is None:  # else an error is already being raised, maybe this one
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

        A step that is already saved, because the run was stopped during its validation, is completed in place,
        so that nothing saved is lost at any moment.

        Args:
          state: with concrete arrays.
          position: JSON-able: where the data iterator is, and the clock.
          metrics: validation metrics of this step, None when it was not validated.

        Raises:
          UserError: this or the save before could not be written.
        """
        step = int(state.step)
        position, metrics = checksums.seal(position), checksums.seal(metrics or {})
        try:
            if step in self._manager.all_steps():
                self._complete(step, position, metrics)
                return
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    parameters=ocp.args.StandardSave(state.parameters),
                    rest=ocp.args.StandardSave({"step": state.step, "optimizer": state.optimizer}),
                    position=ocp.args.JsonSave(position),
                ),
                metrics=metrics,
                force=True,
            )
            threading.Thread(target=self._wait_for_save, daemon=True).start()
        except Exception as error:  # Orbax, TensorStore and a bucket's client each raise their own
            raise self._write_error(error) from error

    def _wait_for_save(self) -> None:
        # Orbax's own `check_for_errors` would take the error from the thread that then deletes older steps.
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            self._failed = error

    def check(self) -> None:
        """Raises the error of a background save that has failed; does not wait for one that runs.

        Raises:
          UserError: the checkpoint could not be written.
        """
        if self._failed is not None:
            raise self._write_error(self._failed) from self._failed

    def _complete(
        self, step: int, position: Mapping[str, Any], metrics: Mapping[str, float]
    ) -> None:
        """Adds a validation to a saved step: its metrics, then the position, whose clock has them too.

        Each file is replaced atomically. After a kill between the two, the validation runs again.
        """
        self._manager.wait_until_finished()
        if self._peers.index == 0:
            folder = self.folder / str(step)
            replace_text(folder / "metrics" / "metrics", json.dumps(dict(metrics)))
            replace_text(folder / "position" / "metadata", json.dumps(dict(position)))
        self._peers.exchange(None)
        self._manager.reload()

    def reached_preemption(self, step: int) -> bool:
        """Whether Orbax has agreed with the platform to stop at this step; the same on every process."""
        return bool(self._manager.reached_preemption(step))

    def restore_newest(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
        """Restores the newest intact state; newer checkpoints that are damaged are moved away, with a warning.

        Raises:
          UserError: none is intact, or one cannot be read but is not proven damaged.
        """
        damaged_folders: dict[StoragePath, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            problem, damaged, restored = "", True, None
            try:
                restored = self.restore(abstract, step)
            except UserError as error:
                problem, damaged = str(error), isinstance(error, DamagedCheckpoint)
            reports = self._peers.exchange([problem, damaged])
            problems = [text for text, _ in reports if text]
            for text, proven in reports:
                if not proven:
                    raise UserError(text)
            if restored is not None and not problems:
                if damaged_folders:
                    self._move_damaged(damaged_folders)
                    self._manager.reload()
                    self._warn(f"going on from step {step}")
                return restored
            damaged_folders[self.folder / str(step)] = problems[0]
        raise UserError(next(iter(damaged_folders.values()), f"{self.folder}: holds no checkpoint"))

    def restore(self, abstract: TrainState, step: int) -> tuple[TrainState, dict[str, Any]]:
        """The state, in the shardings of `abstract`, and the position.

        Raises:
          UserError: the checkpoint is damaged or of another model.
        """
        folder, rest = (
            self.folder / str(step),
            {"step": abstract.step, "optimizer": abstract.optimizer},
        )
        restored = self._restore(
            step,
            parameters=ocp.args.StandardRestore(abstract.parameters),
            rest=ocp.args.StandardRestore(rest),
            position=ocp.args.JsonRestore(),
        )
        state = TrainState(restored.rest["step"], restored.parameters, restored.rest["optimizer"])
        try:
            return state, checksums.unseal(restored.position, storage.has_checksums(folder))
        except checksums.ChangedError as error:
            raise storage.read_error(folder, error) from error

    def restore_parameters(
        self,
        abstract: Mapping[str, jax.ShapeDtypeStruct],
        step: int,
        prefixes: tuple[str, ...] = ("",),
    ) -> dict[str, jax.Array]:
        """The parameters alone, those whose paths begin with one of `prefixes`.

        Raises:
          UserError: the checkpoint is damaged or of another model.
        """
        if prefixes == ("",):
            return self._restore(
                step, parameters=ocp.args.StandardRestore(dict(abstract))
            ).parameters
        return self._restore(
            step, abstract, parameters=storage.partial_restore(abstract, prefixes)
        ).parameters

    def _restore(
        self, step: int, shapes: Mapping[str, jax.ShapeDtypeStruct] | None = None, **items: Any
    ) -> Any:
        """Restores some items; a part of the parameters wants the `shapes` of all of them."""
        folder = self.folder / str(step)
        checked = self._check_files(folder, items)
        try:
            if shapes is not None:
                storage.check_shapes(folder / "parameters", shapes)
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # TensorStore's own errors have no other base
            raise storage.read_error(folder, error, whole=checked) from error

    def _check_files(self, folder: StoragePath, items: Mapping[str, Any]) -> bool:
        """Checks a checkpoint against its digests, each process a share; returns whether it has any.

        Raises:
          UserError: it is damaged, or cannot be read; the same on every process.
        """
        listed: dict[str, str] = {}
        problem, damaged = "", False
        try:
            listed = storage.read_checksums(folder)
            share = [*listed.items()][self._peers.index :: self._peers.count]
            storage.check_files(folder, dict(share), items)
        except (UserError, OSError) as error:
            fault = storage.read_error(folder, error)
            problem, damaged = str(fault), isinstance(fault, DamagedCheckpoint)
        for text, proven in self._peers.exchange([problem, damaged]):
            if text:
                raise DamagedCheckpoint(text) if proven else UserError(text)
        return bool(listed)

    def wait(self) -> None:
        """Waits until the last save is on disk.

        Raises:
          UserError: the checkpoint could not be written.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # Orbax, TensorStore and a bucket's client each raise their own
            raise self._write_error(error) from error

    def close(self) -> None:
        """Waits for the last save, and closes the folder.

        Raises:
          UserError: the last save could not be written.
        """
        try:
            self._manager.close()
        except Exception as error:  # Orbax, TensorStore and a bucket's client each raise their own
            raise self._write_error(error) from error

    def _write_error(self, error: Exception) -> UserError:
        return UserError(
            f"{self.folder}: a checkpoint could not be written ({storage.first_line(error)}); the last whole "
            "one is kept: make room or mend the storage, start again, and the run goes on from there"
        )

    def _has_partial_saves(self) -> bool:
        """Whether a save was interrupted: in a bucket, which cannot rename, its last file is missing."""
        if isinstance(self.folder, Path):
            return any(self.folder.glob("*.orbax-checkpoint-tmp*"))
        complete = {path.parent.name for path in self.folder.glob("*/commit_success.txt")}
        return self.folder.is_dir() and any(p.name not in complete for p in self.folder.iterdir())

    def _broken_metrics(self) -> dict[StoragePath, UserError]:
        """The error of each checkpoint whose metrics are damaged.

        Raises:
          UserError: metrics cannot be read now, which does not prove damage.
        """
        broken: dict[StoragePath, UserError] = {}
        for file in sorted(self.folder.glob("*/metrics/metrics")):
            folder = file.parents[1]
            try:
                values = json.loads(file.read_text("utf-8"))
                checksums.unseal(values, storage.has_checksums(folder))
            except (ValueError, OSError) as error:
                fault = storage.read_error(folder, error)
                if not isinstance(fault, DamagedCheckpoint):
                    raise fault from error
                broken[folder] = fault
        return broken

    def _move_damaged(self, damaged: Mapping[StoragePath, str]) -> None:
        """Moves damaged checkpoints away, so that their steps can be saved again."""
        self._peers.exchange(None)  # no process still reads what is moved
        for path, problem in damaged.items():
            folder = self.folder.parent / DAMAGED
            self._warn(f"{problem.split('; ')[0]}; moved to {folder}")
            if self._peers.index == 0:
                folder.mkdir(exist_ok=True)
                count = sum(1 for _ in folder.glob("*"))
                path.rename(folder / f"{path.name}.{count}")
        self._peers.exchange(None)

    def _warn(self, text: str) -> None:
        if self._peers.index == 0:
            sys.stderr.write(f"warning: {text}\n")


def _best_metric(metrics: Mapping[str, float] | None) -> float:
    value = (metrics or {}).get(BEST_METRIC)
    return float("-inf") if value is None else float(value)
