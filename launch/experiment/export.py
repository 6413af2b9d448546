"""Exports a run: one folder that transformers, PEFT, jax.export and our own commands read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.core.files import new_folder, read_object
from jax_vlffd.contained import check_contained
from jax_vlffd.errors import UserError
from jax_vlffd.export import folder as exported
from jax_vlffd.export import huggingface, stablehlo
from jax_vlffd.reports import model_card
from launch.experiment import config as configs
from launch.experiment import results, training_data
from launch.experiment import workdir as runs

#: Where an evaluation of a run is looked for.
_EVALUATIONS = ("metrics.json", "evaluation/metrics.json", "report/metrics.json")
#: Files of the workdir that the export takes over as they are, where they exist.
_KEPT = (runs.CONFIG, runs.CALIBRATION, runs.SUMMARY, "metrics.jsonl", runs.EXPLANATION)


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
    """Exports a run; the folder is written aside and renamed when it is whole.

    Args:
      workdir: of the run.
      out: folder to make; an empty one may be there.
      step: 'best' or 'latest'.
      name: of the model, for its card; the workdir's by default.
      metrics: an evaluation's `metrics.json`, for the card; left out, with a note, where it is another model's.
      train_data: packed sets that it was trained on, where the workdir does not tell.
      validation: those that it was validated on, likewise.

    Returns:
      The step of the checkpoint.

    Raises:
      UserError: the workdir is none, has no checkpoint yet, or is damaged.
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


def evaluation_of(workdir: Path, given: str | None) -> dict[str, Any] | None:
    """The evaluation that the card quotes, None when there is none.

    Args:
      workdir: looked into where nothing is given.
      given: a metrics.json.

    Raises:
      UserError: what is given is no metrics.json, lies beside another evaluation's files, or a link leads out
        of the workdir.
    """
    check_contained(workdir)
    if given is not None:
        found = read_object(Path(given))
        if found is None or not isinstance(found.get("sets"), dict):
            raise UserError(f"{given}: not a metrics.json of launch.evaluate")
        return _checked(Path(given), found)
    for name in _EVALUATIONS:
        found = read_object(workdir / name)
        if found is not None and isinstance(found.get("sets"), dict):
            print(f"the model card quotes {workdir / name}")
            return _checked(workdir / name, found)
    return None


def _checked(path: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    results.check_companions(path, metrics)
    if "request" not in metrics:
        print(
            f"note: {path} is of an older version and does not say which model it is of: see to that"
        )
    return metrics


def _write(
    folder: Path, workdir: Path, run: runs.Run, name: str, metrics: Mapping[str, Any] | None
) -> None:
    """Writes the whole export into an empty folder."""
    parameters = {path: np.asarray(value) for path, value in run.parameters.items()}
    form = huggingface.form(run.model.clip)
    exported.save_parameters(folder, parameters)
    merged, model = huggingface.merge(parameters, run.model)
    ids = {"bos_token_id": run.tokenizer.bos_id, "pad_token_id": run.tokenizer.pad_id}
    held = huggingface.save(folder / exported.HF, merged, model, ids)
    huggingface.save_heads(folder / exported.HEADS, merged, held)
    if run.model.compute.lora_rank:
        base = run.config["init"]["clip"] or run.config["init"]["vit"]
        huggingface.save_adapter(folder / exported.ADAPTER, parameters, run.model, base)
    run.tokenizer.save(folder / runs.TOKENIZER)
    if form == "clip":
        run.tokenizer.save(folder / exported.HF)
    note = ""
    try:
        (folder / exported.PROGRAM).write_bytes(stablehlo.build(parameters, run.model))
    except UserError as error:
        note = f"There is no `{exported.PROGRAM}`: {error}."
        print(f"note: {note}")
    for file in _KEPT:
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
        name, form, run.config, run.step, [*files, exported.CHECKSUMS],
        read_object(workdir / runs.SUMMARY) or {}, run.calibration, _data_cards(run), metrics, note,
        run.methods,
    )  # fmt: skip
    (folder / exported.CARD).write_text(model_card.render(facts), "utf-8")
    exported.write_checksums(folder)


def _data_cards(run: runs.Run) -> dict[str, dict[str, Any] | None]:
    """The data cards of the packed sets that the run read, by folder."""
    trained = run.trained or {"train": [], "validation": []}
    return {entry["set"]: entry["card"] for entry in (*trained["train"], *trained["validation"])}
