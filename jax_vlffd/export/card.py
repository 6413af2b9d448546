"""The model card: what a run's own files tell, and what any user of a detector must know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jax_vlffd.evaluation.calibration import Calibration

_METRICS: Final = {
    "frame_auc": "Frame AUC",
    "video_auc": "Video AUC",
    "ap": "AP",
    "eer": "EER",
    "acc": "Accuracy at 0.5",
    "acc_calibrated": "Accuracy at threshold",
}

_USE: Final = """\
## Intended use

A second opinion on whether a face in a picture was manipulated: research on forgery detection, and triage in
which people decide. The input is a face crop made as the training crops were; the score of a picture that was
cropped otherwise means little.

Not for deciding about a person automatically, not as evidence on its own, and not for pictures without a face
or for images that are wholly generated rather than manipulated, unless such data are in the list above.

## Limits

- It knows the kinds of forgery, the compression and the people of its training data. On others its scores
  fall towards chance, and nothing in a single score tells that this has happened.
- The calibration holds for data like the validation split. The share of forgeries in real use differs, and a
  probability shifts with it.
- Recompression, scaling and screenshots remove the traces that it looks at.
- Reasons in words, where a detector with text gives them, come from similarity between the picture and
  sentences. They say what the picture resembles, not what was done to it.
- Whoever makes a forgery can test it against a published detector until it passes.

## Ethics

Error rates of face analysis differ between groups of people; the figures above do not break them down unless
the evaluation's sets do. Measure them on people like those concerned before any use. A wrong "fake" can
discredit a true record and its author, a wrong "real" can lend a forgery credit: say "uncertain" where the
score says it. The pictures of the training sets show people who did not all agree to this use; their data
sets' terms bind this model too, and many allow research only.
"""

_FILES: Final = {
    "hf/": "",  # said by its form
    "heads.safetensors": "every parameter that `hf/` has no place for, under this project's names",
    "adapter/": "the low-rank adapters alone, as PEFT names them; `hf/` has them merged in",
    "orbax/": "all parameters as trained; what this project's own commands read",
    "model.stablehlo": "the detector as one program with its weights: uint8 images [b, S, S, 3] in, logits "
    "(real, fake) and embedding out; cpu, cuda and tpu; `jax.export.deserialize` reads it",
    "calibration.json": "temperature, threshold and the band of 'uncertain'",
    "tokenizer/": "CLIP tokenizer files",
    "config.json": "every setting of the training, and the versions that ran it",
    "SHA256SUMS": "of every file; `sha256sum -c SHA256SUMS` checks them",
}
_HF_FORMS: Final = {
    "clip": "loads by `transformers.CLIPModel.from_pretrained`: both towers and the projections, fp32",
    "vit": "the image tower, loads by `transformers.ViTModel.from_pretrained(..., add_pooling_layer=False)`. "
    "It is a plain ViT, which has no pre-LayerNorm, so it cannot be a CLIPModel; the text tower and the "
    "projections are in `heads.safetensors`",
}


@dataclass(frozen=True)
class Facts:
    """What a card is made from; everything but the config may be missing.

    name: of the model. form: 'clip' or 'vit', what `hf/` is. config: the run's. summary: `summary.json`.
    calibration: as fitted. data: packed set's folder -> its `data_card.json`, None where it is gone. metrics:
    an evaluation's `metrics.json`. files: what the export holds. step: of the checkpoint. note: what was left
    out, and why.
    """

    name: str
    form: str
    config: Mapping[str, Any]
    step: int
    files: Sequence[str]
    summary: Mapping[str, Any] = field(default_factory=dict)
    calibration: Calibration | None = None
    data: Mapping[str, Mapping[str, Any] | None] = field(default_factory=dict)
    metrics: Mapping[str, Any] | None = None
    note: str = ""


def render(facts: Facts) -> str:
    """The card as Markdown with the front matter that the Hugging Face hub reads."""
    front = [
        "---",
        "library_name: jax",
        "pipeline_tag: image-classification",
        "tags: [deepfake-detection, face-forgery, clip, jax, flax]",
        "---",
    ]
    parts = [
        *front, "", f"# {_plain(facts.name)}", "", _opening(facts), "", *_files(facts), "", *_data(facts), "",
        *_metrics(facts), "", *_calibration(facts), "", _USE, *_config(facts),
    ]  # fmt: skip
    return "\n".join(parts) + "\n"


def _plain(text: Any) -> str:
    """Text of a file on one line, without what Markdown or HTML would act on."""
    shown = " ".join(str(text).split())
    for mark in "\\`*_[]<>|#":
        shown = shown.replace(
            mark, f"\\{mark}" if mark not in "<>" else {"<": "&lt;", ">": "&gt;"}[mark]
        )
    return shown


def _opening(facts: Facts) -> str:
    loss, tuning = facts.config["loss"], facts.config["tuning"]
    branches = [
        name
        for key, name in (
            ("image", "classification of the image"),
            ("alignment", "image-text alignment"),
            ("fusion", "classification of image and text fused"),
        )
        if loss[key] > 0
    ]
    vision = facts.config["model"]["vision"]
    init = facts.config["init"]
    start = init["clip"] or init["vit"] or init["resume"]
    started = f"from `{start}`" if start else "from random parameters"
    size = facts.summary.get("parameters")
    kind = "that gives reasons in words" if loss["alignment"] > 0 else "without words"
    return (
        f"A detector of manipulated faces {kind}: CLIP fine-tuned with the branches "
        f'{", ".join(branches)} (after "Towards General Visual-Linguistic Face Forgery Detection", CVPR '
        "2025; a reimplementation, whose settings are its own). Image tower: "
        f"{vision['layers']} layers of width {vision['width']}, patches of {vision['patch_size']} px, images "
        f"of {vision['image_size']} px. Tuning: {tuning['vision']} (image), {tuning['text']} (text), "
        f"{started}; checkpoint of step {facts.step}"
        + (f"; {size:,} parameters" if size else "")
        + "."
    )


def _files(facts: Facts) -> list[str]:
    told = {**_FILES, "hf/": _HF_FORMS[facts.form]}
    lines = ["## Files", "", "| file | content |", "| --- | --- |"]
    lines += [f"| `{name}` | {text} |" for name, text in told.items() if name in facts.files]
    return [*lines, "", facts.note] if facts.note else lines


def _data(facts: Facts) -> list[str]:
    lines = ["## Data", ""]
    for folder, card in facts.data.items():
        if card is None:
            lines.append(f"- `{folder}`: the packed set was not there when this card was written.")
            continue
        lines += [f"Packed set `{folder}`: {card.get('records', '?')} records.", ""]
        lines += [
            "| split | data set | method | label | records |",
            "| --- | --- | --- | --- | --- |",
        ]
        for split, content in card.get("splits", {}).items():
            lines += [
                "| " + " | ".join([split, *(_plain(row.get(key, "")) for key in _COLUMNS)]) + " |"
                for row in content.get("by_method", [])
            ]
        sources = ", ".join(f"{n} {k}" for k, n in card.get("fakes_by_caption_source", {}).items())
        lines += [
            "",
            f"Splits: {_plain(card.get('split_rule', 'not told'))}. Captions: {sources}.",
            "",
        ]
    data = facts.config["data"]
    methods = data["methods"] or "all"
    lines += [
        f"Trained on the split `train` (methods: {_plain(methods)}; captions: {data['captions']}); the split "
        "`validation` chose the checkpoint and fitted the calibration."
    ]
    return lines


_COLUMNS: Final = ("dataset", "method", "label", "records")


def _metrics(facts: Facts) -> list[str]:
    lines = ["## Results", ""]
    if facts.metrics is None:
        found = facts.summary.get("validation", {})
        told = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
        return [
            *lines,
            "No evaluation on a test set came with this export. On the validation split, which chose the "
            f"checkpoint and so flatters it: {told or 'nothing is known'}.",
        ]
    sets = facts.metrics.get("sets", {})
    lines += [
        f"`launch.evaluate`, split `{facts.metrics.get('split', '?')}`, detector "
        f"{_plain(facts.metrics.get('detector', '?'))}; in brackets 95 % bootstrap intervals over videos.",
        "",
        "| set | " + " | ".join(_METRICS.values()) + " | frames (videos) |",
        "| --- |" + " --- |" * (len(_METRICS) + 1),
    ]
    for name, found in sets.items():
        rows = [(name, found)]
        rows += [(f"{name}, {method}", part) for method, part in found.get("methods", {}).items()]
        for label, part in rows:
            counts = part.get("counts", {})
            frames = counts.get("frames_real", 0) + counts.get("frames_fake", 0)
            videos = counts.get("videos_real", 0) + counts.get("videos_fake", 0)
            cells = [_figure(part, key) for key in _METRICS]
            lines.append(f"| {_plain(label)} | {' | '.join(cells)} | {frames:,} ({videos:,}) |")
    return lines


def _figure(found: Mapping[str, Any], name: str) -> str:
    value, pair = found.get(name), found.get("intervals", {}).get(name)
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" [{pair[0]:.3f}, {pair[1]:.3f}]" if pair else "")


def _calibration(facts: Facts) -> list[str]:
    lines = ["## Calibration", ""]
    fitted = facts.calibration
    if fitted is None:
        return [*lines, "None was fitted: the probabilities are those of the softmax."]
    return [
        *lines,
        f"Fitted on {fitted.frames} frames of the validation split: the log-odds are divided by "
        f"{fitted.temperature:.4g}. A probability above {fitted.high:.4f} is told as fake, one below "
        f"{fitted.low:.4f} as real, and what lies between as uncertain (target error rate of either side: "
        f"{fitted.target:g}); a yes-or-no answer is fake above {fitted.threshold:.4f}.",
    ]


def _config(facts: Facts) -> list[str]:
    text = json.dumps(facts.config, indent=1)
    return ["## Settings", "", "```json", text, "```"]
