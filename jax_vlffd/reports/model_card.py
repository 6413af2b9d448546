"""The model card of an export, made from the run's own files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from jax_vlffd.evaluation.calibration import Calibration
from jax_vlffd.reports.render import page

_METRICS: Final = {
    "frame_auc": "Frame AUC",
    "video_auc": "Video AUC",
    "ap": "AP",
    "eer": "EER",
    "acc": "Accuracy at 0.5",
    "acc_calibrated": "Accuracy at threshold",
}

#: Rows of a table.
_MAX_ROWS: Final = 500
_COLUMNS: Final = ("dataset", "method", "label", "records")

_FILES: Final = {
    "hf/": "",  # see _HF_FORMS
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
#: Ways of resizing, as `settings.Resize`, in words.
_RESIZING: Final = {
    "antialiased": "with antialiasing, within 1.5 gray levels of Pillow's bicubic",
    "truncated": "by an older method, which leaves out the last rows and columns beyond a multiple of the view",
}
_HF_FORMS: Final = {
    "clip": "loads by `transformers.CLIPModel.from_pretrained`: both towers and the projections, fp32",
    "vit": "the image tower, loads by `transformers.ViTModel.from_pretrained(..., add_pooling_layer=False)`. "
    "It is a plain ViT, which has no pre-LayerNorm, so it cannot be a CLIPModel; the text tower and the "
    "projections are in `heads.safetensors`",
}


@dataclass(frozen=True)
class Facts:
    """What a card is made from.

    name: of the model. form: of `hf/`, 'clip' or 'vit'. config: the run's. step: of the checkpoint. files: of
    the export. summary: `summary.json`. calibration: None if none was fitted. data: packed set's folder -> its
    `data_card.json`, or None. metrics: an evaluation's `metrics.json`. note: what was left out, and why.
    methods: of forgery, in the training set; empty where unknown. weights: pretrained ones that training began
    with: `revision`, a commit of the hub or None, and `files`, name -> SHA-256; None where there are none.

    Texts and figures in them are untrusted: the card shows them as plain text.
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
    weights: Mapping[str, Any] | None = None


def render(facts: Facts) -> str:
    """The card as Markdown with the front matter that the Hugging Face hub reads."""
    config, summary, metrics = facts.config, facts.summary, facts.metrics
    loss, init, data = config["loss"], config["init"], config["data"]
    branches = {
        "image": "classification of the image",
        "alignment": "image-text alignment",
        "fusion": "classification of image and text fused",
    }
    contents = {**_FILES, "hf/": _HF_FORMS[facts.form]}
    validation = [(key, _real(value)) for key, value in _mapping(summary.get("validation")).items()]
    methods = facts.methods or [name for name in data["methods"].split(",") if name]
    return page(
        "model_card.md.j2",
        name=facts.name,
        alignment=loss["alignment"] > 0,
        branches=[text for key, text in branches.items() if loss[key] > 0],
        vision=config["model"]["vision"],
        tuning=config["tuning"],
        start=init["clip"] or init["vit"] or init["resume"],
        revision=_mapping(facts.weights).get("revision"),
        digests=list(_mapping(_mapping(facts.weights).get("files")).items())[:_MAX_ROWS],
        step=facts.step,
        parameters=_integer(summary.get("parameters")),
        preprocessing=_preprocessing(config),
        files={name: text for name, text in contents.items() if name in facts.files},
        note=facts.note,
        data=[_data(folder, card) for folder, card in facts.data.items()],
        methods=methods[:_MAX_ROWS],
        captions=data["captions"],
        validation=[(key, value) for key, value in validation if value is not None],
        titles=list(_METRICS.values()),
        results=None if metrics is None else _results(metrics),
        split="" if metrics is None else metrics.get("split", "?"),
        detector="" if metrics is None else metrics.get("detector", "?"),
        fitted=facts.calibration,
        settings=json.dumps(config, indent=1),
    )


def _preprocessing(config: Mapping[str, Any]) -> dict[str, str]:
    """What happened to the training pictures, by its name; texts are plain."""
    model, augment = config["model"], _mapping(config["data"].get("augment"))

    def drawn(name: str, values: str) -> str:
        chance = _real(augment.get(name))
        if chance is None:
            return "not recorded"
        low, high = augment.get(values) or (None, None)
        return f"of {100 * chance:g} % of the pictures, {low} to {high}" if chance else "none"

    mean, std = (", ".join(f"{x:.4g}" for x in model[name]) for name in ("image_mean", "image_std"))
    return {
        "View": f"the largest centered square, {model['vision']['image_size']} px",
        "Resizing": _RESIZING.get(model.get("resize", "truncated"), "unknown"),
        "Normalization": f"RGB in 0 to 1, mean {mean}, spread {std}",
        "Color": "RGB as decoded, taken for sRGB; training changes brightness, contrast and saturation "
        f"of {100 * (_real(augment.get('color')) or 0):g} % of the pictures",
        "JPEG in training, quality": drawn("jpeg", "jpeg_quality"),
        "Blur in training, sigma in px": drawn("blur", "blur_sigma"),
        "Noise in training, gray levels": drawn("noise", "noise_std"),
    }


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _integer(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < 1 << 53 else None


def _real(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e15 else None


def _data(folder: str, card: Mapping[str, Any] | None) -> dict[str, Any]:
    """The card's section on a packed set."""
    if card is None:
        return {"folder": folder, "gone": True}
    rows = [
        (split, *map(row.get, _COLUMNS))
        for split, content in _mapping(card.get("splits")).items()
        for row in map(_mapping, _mapping(content).get("by_method") or ())
    ]
    sources = _mapping(card.get("fakes_by_caption_source"))
    return {
        "folder": folder,
        "gone": False,
        "records": _integer(card.get("records")),
        "rows": rows[:_MAX_ROWS],
        "rule": card.get("split_rule", "not recorded"),
        "pictures": _pictures(card),
        "sources": ", ".join(f"{_integer(n)} {key}" for key, n in sources.items()),
    }


def _pictures(card: Mapping[str, Any]) -> list[tuple[Any, Any, Any]]:
    """Label, format and number of the stored pictures; none for sets of older versions."""
    rows = card.get("pictures")
    keys = ("label", "format", "records")
    return [
        tuple(map(row.get, keys)) for row in map(_mapping, rows if isinstance(rows, list) else ())
    ][:_MAX_ROWS]  # type: ignore[return-value]


def _results(metrics: Mapping[str, Any]) -> list[tuple[str, list[str], int, int]]:
    """Rows of the results: set or method, its metrics, number of frames, number of videos."""
    parts: list[tuple[str, Mapping[str, Any]]] = []
    for name, measured in _mapping(metrics.get("sets")).items():
        parts.append((name, _mapping(measured)))
        methods = _mapping(_mapping(measured).get("methods"))
        parts += [(f"{name}, {method}", _mapping(part)) for method, part in methods.items()]
    rows = []
    for label, part in parts[:_MAX_ROWS]:
        counts = _mapping(part.get("counts"))
        frames, videos = (
            (_integer(counts.get(f"{what}_real")) or 0)
            + (_integer(counts.get(f"{what}_fake")) or 0)
            for what in ("frames", "videos")
        )
        rows.append((label, [_figure(part, key) for key in _METRICS], frames, videos))
    return rows


def _figure(measured: Mapping[str, Any], name: str) -> str:
    value, pair = _real(measured.get(name)), _mapping(measured.get("intervals")).get(name)
    if value is None:
        return "-"
    ends = [_real(end) for end in pair] if isinstance(pair, list | tuple) else []
    if len(ends) != 2 or None in ends:
        return f"{value:.3f}"
    return f"{value:.3f} [{ends[0]:.3f}, {ends[1]:.3f}]"
