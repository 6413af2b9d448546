"""Exports a run: one folder that transformers, PEFT, jax.export and our own commands read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.core.files import new_folder, read_object
from jax_vlffd import checksums
from jax_vlffd.errors import UserError
from jax_vlffd.export import folder as exported
from jax_vlffd.export import huggingface, stablehlo
from jax_vlffd.path_containment import check_contained
from jax_vlffd.reports import model_card
from launch.experiment import config as configs
from launch.experiment import results, training_data
from launch.experiment import workdir as runs

#: Paths in a workdir where an evaluation may be.
_EVALUATIONS = ("metrics.json", "evaluation/metrics.json", "report/metrics.json")
#: Files that are copied from the workdir if they exist.
_COPIED = (runs.CONFIG, runs.CALIBRATION, runs.SUMMARY, "metrics.jsonl", runs.EXPLANATION)


def export(
    workdir: Path,
    out: Path,
    *,
    step: str = "best",
    name: str | None = None,
    metrics: Mapping[str, Any] | None = None,
    train_data: Sequence[str] = (),
    validation: Sequence[str] = (),
) -> int:
    """Exports a run into a temporary folder, which is renamed when complete.

    Args:
      workdir: of the run.
      out: folder to create; an empty one may exist.
      step: 'best' or 'latest'.
      name: of the model, for its card; the workdir's by default.
      metrics: an evaluation's `metrics.json`, for the card; left out with a note if it is another model's.
      train_data: packed sets that it was trained on, if the workdir does not record them.
      validation: packed sets that it was validated on, likewise.

    Returns:
      The step of the checkpoint.

    Raises:
      UserError: it is not a workdir, has no checkpoint yet, or is damaged.
    """
    run = runs.load_run(workdir, step, train_data, validation)
    if metrics is not None and results.is_of(metrics, run.step, run.hash()) is False:
        print(
            f"note: the evaluation is of another model than step {run.step} of {workdir}, so the model card "
            "quotes none; run launch.evaluate on this one"
        )
        metrics = None
    with new_folder(out) as aside:
        _write(aside, workdir, run, name or run.name, metrics)
    return run.step


def evaluation_of(workdir: Path, file: str | None) -> dict[str, Any] | None:
    """The evaluation that the model card quotes; None if there is none.

    Args:
      workdir: searched for an evaluation if `file` is None.
      file: path of a metrics.json.

    Raises:
      UserError: the file is not a metrics.json, the files beside it belong to another evaluation, or a link
        leads out of the workdir.
    """
    check_contained(workdir)
    for path in [Path(file)] if file is not None else [workdir / name for name in _EVALUATIONS]:
        metrics = read_object(path)
        if metrics is not None and isinstance(metrics.get("sets"), dict):
            if file is None:
                print(f"the model card quotes {path}")
            return _checked(path, metrics)
    if file is not None:
        raise UserError(f"{file}: not a metrics.json of launch.evaluate")
    return None


def _checked(path: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    results.check_companions(path, metrics)
    if "request" not in metrics:
        print(
            f"note: {path} is of an older version and does not name its model; make sure that it is this one"
        )
    return metrics


def _write(
    folder: Path, workdir: Path, run: runs.TrainedRun, name: str, metrics: Mapping[str, Any] | None
) -> None:
    """Writes the whole export into an empty folder."""
    parameters = {path: np.asarray(value) for path, value in run.parameters.items()}
    form = huggingface.form(run.model.clip)
    weights = (run.trained or {}).get("initial_weights")
    exported.save_parameters(folder, parameters)
    merged, model = huggingface.merge(parameters, run.model)
    ids = {"bos_token_id": run.tokenizer.bos_id, "pad_token_id": run.tokenizer.pad_id}
    held = huggingface.save(folder / exported.HF, merged, model, ids)
    huggingface.save_heads(folder / exported.HEADS, merged, held)
    if run.model.compute.lora_rank:
        base = run.config["init"]["clip"] or run.config["init"]["vit"]
        revision = (weights or {}).get("revision")
        huggingface.save_adapter(folder / exported.ADAPTER, parameters, run.model, base, revision)
    run.tokenizer.save(folder / runs.TOKENIZER)
    if form == "clip":
        run.tokenizer.save(folder / exported.HF)
    note = ""
    try:
        (folder / exported.PROGRAM).write_bytes(stablehlo.build(parameters, run.model))
    except UserError as error:
        note = f"There is no `{exported.PROGRAM}`: {error}."
        print(f"note: {note}")
    for file in _COPIED:
        if (workdir / file).is_file():
            shutil.copyfile(workdir / file, folder / file)
    if run.trained is not None:
        training_data.save(folder, run.trained)
    manifest = {
        "version": exported.VERSION,
        "name": name,
        "step": run.step,
        "hf": form,
        "methods": list(run.methods),
        "versions": configs.versions(),
    }
    (folder / exported.MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    files = [f"{p.name}/" if p.is_dir() else p.name for p in folder.iterdir()]
    facts = model_card.Facts(
        name, form, run.config, run.step, [*files, checksums.FILE],
        read_object(workdir / runs.SUMMARY) or {}, run.calibration, _data_cards(run), metrics, note,
        run.methods, weights,
    )  # fmt: skip
    (folder / exported.CARD).write_text(model_card.render(facts), "utf-8")
    checksums.write(folder)


def _data_cards(run: runs.TrainedRun) -> dict[str, dict[str, Any] | None]:
    """The data cards of the run's packed sets, by folder."""
    trained = run.trained or {"train": [], "validation": []}
    return {entry["set"]: entry["card"] for entry in (*trained["train"], *trained["validation"])}
