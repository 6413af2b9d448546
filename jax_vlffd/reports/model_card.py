"""The model card: what a run's own files tell, and what any user of a detector must know."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
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

#: Letters of any text that comes from a file, and rows of a table.
_LONGEST: Final = 200
_MOST_ROWS: Final = 500

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
    out, and why. methods: of forgery, that it was trained on; empty where they are not known.

    Texts and figures in them may be a stranger's: nothing of them is more than text in the card.
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
    methods: Sequence[str] = ()


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
    """Text of a file on one line, bounded, without what Markdown, HTML or a terminal would act on."""
    shown = " ".join(str(text)[: 4 * _LONGEST].split())
    shown = "".join(mark for mark in shown if mark.isprintable())
    if len(shown) > _LONGEST:
        shown = shown[:_LONGEST] + "…"
    # Marks of Markdown first: a backslash before one makes it a letter. Addresses would be links by themselves.
    shown = "".join(f"\\{mark}" if mark in "\\`*_[]()|#~!{}$" else mark for mark in shown)
    shown = escape(shown, quote=False)
    return re.sub(r"://|@|(?i:www)(?=\.)", lambda m: "".join(f"&#{ord(c)};" for c in m[0]), shown)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _whole(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def _real(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e15 else None


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
    started = f"from {_plain(start)}" if start else "from random parameters"
    size = _whole(facts.summary.get("parameters"))
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
            lines.append(
                f"- {_plain(folder)}: the packed set was not there when this card was written."
            )
            continue
        records = _whole(card.get("records"))
        lines += [
            f"Packed set {_plain(folder)}: {'?' if records is None else records} records.",
            "",
        ]
        lines += [
            "| split | data set | method | label | records |",
            "| --- | --- | --- | --- | --- |",
        ]
        rows = [
            "| " + " | ".join(_plain(text) for text in (split, *map(row.get, _COLUMNS))) + " |"
            for split, content in _mapping(card.get("splits")).items()
            for row in map(_mapping, _mapping(content).get("by_method") or ())
        ]
        lines += rows[:_MOST_ROWS]
        found = _mapping(card.get("fakes_by_caption_source"))
        sources = _plain(", ".join(f"{_whole(n)} {key}" for key, n in found.items()))
        rule = _plain(card.get("split_rule", "not told"))
        lines += ["", f"Splits: {rule}. Captions: {sources}.", ""]
    data = facts.config["data"]
    methods = facts.methods or [name for name in data["methods"].split(",") if name]
    told = ", ".join(map(_plain, methods[:_MOST_ROWS])) or "unknown"
    lines += [
        f"Trained on the split `train` (methods: {told}; captions: {_plain(data['captions'])}); the split "
        "`validation` chose the checkpoint and fitted the calibration."
    ]
    return lines


_COLUMNS: Final = ("dataset", "method", "label", "records")


def _metrics(facts: Facts) -> list[str]:
    lines = ["## Results", ""]
    if facts.metrics is None:
        found = _mapping(facts.summary.get("validation"))
        figures = [(key, _real(value)) for key, value in found.items()]
        told = ", ".join(
            f"{_plain(key)} {value:.4f}" for key, value in figures if value is not None
        )
        return [
            *lines,
            "No evaluation on a test set came with this export. On the validation split, which chose the "
            f"checkpoint and so flatters it: {told or 'nothing is known'}.",
        ]
    sets = _mapping(facts.metrics.get("sets"))
    lines += [
        f"`launch.evaluate`, split {_plain(facts.metrics.get('split', '?'))}, detector "
        f"{_plain(facts.metrics.get('detector', '?'))}; in brackets 95 % bootstrap intervals over videos.",
        "",
        "| set | " + " | ".join(_METRICS.values()) + " | frames (videos) |",
        "| --- |" + " --- |" * (len(_METRICS) + 1),
    ]
    rows = []
    for name, found in sets.items():
        rows.append((name, _mapping(found)))
        parts = _mapping(_mapping(found).get("methods"))
        rows += [(f"{name}, {method}", _mapping(part)) for method, part in parts.items()]
    for label, part in rows[:_MOST_ROWS]:
        counts = _mapping(part.get("counts"))
        frames, videos = (
            (_whole(counts.get(f"{what}_real")) or 0) + (_whole(counts.get(f"{what}_fake")) or 0)
            for what in ("frames", "videos")
        )
        cells = [_figure(part, key) for key in _METRICS]
        lines.append(f"| {_plain(label)} | {' | '.join(cells)} | {frames:,} ({videos:,}) |")
    return lines


def _figure(found: Mapping[str, Any], name: str) -> str:
    value, pair = _real(found.get(name)), _mapping(found.get("intervals")).get(name)
    if value is None:
        return "-"
    ends = [_real(end) for end in pair] if isinstance(pair, list | tuple) else []
    if len(ends) != 2 or None in ends:
        return f"{value:.3f}"
    return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"


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
