"""One annotation line (JSON lines, one real/fake pair each), read and checked.

    {"id": str, "real": path or null, "fake": path or null, "label": 1, or 0 without a fake,
     "regions": {"mouth": {"forged": bool, "types": ["blur", ...], ...}, "nose": ..., ...},
     "raw_caption": str, "caption": str, "captions": [str, ...], "source": "raw|refined|fallback",
     "caption_key": str, "real_captions": [str, ...], "real_caption_key": str,
     "mask": path or null, "error": null or "code: message",
     "geometry": {"height": number, ...} or null, see `jax_vlffd.preprocessing.FaceGeometry`,
     "dataset", "method", "video", "real_video", "frame", "real_frame", "split": optional text}

Paths are absolute or relative to the file's folder. Whatever else a line holds is ignored.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    StrictInt,
    StrictStr,
    ValidationError,
    create_model,
)
from typing_extensions import TypedDict

from data_pipeline import captions as caption_writer
from data_pipeline.core.tables import split_name
from data_pipeline.packed.record import MAX_CAPTION, MAX_NAME, SPLITS
from jax_vlffd.errors import UserError
from jax_vlffd.json_reading import parse_json
from jax_vlffd.preprocessing import FaceGeometry
from jax_vlffd.vocabulary import CAPTION_SOURCES, FAKE, REAL, REGIONS, TYPES


def _text(value: Any) -> Any:
    """Null is the empty text, and a whole number, as of a frame, its digits."""
    return "" if value is None else str(value) if type(value) is int else value


if TYPE_CHECKING:
    _Text = str
    _Caption = str
else:  # of three kinds, so that Python is called for the two rare ones alone
    _Text = (
        Annotated[StrictStr, Field(max_length=MAX_NAME)]
        | Annotated[StrictInt | None, AfterValidator(_text)]
    )
    _Caption = (
        Annotated[StrictStr, Field(max_length=MAX_CAPTION)] | Annotated[None, AfterValidator(_text)]
    )
_Texts = Annotated[
    list[Annotated[str, Field(max_length=MAX_CAPTION)]],
    BeforeValidator(lambda value: value or []),
]
_Path = Annotated[_Text, Field(pattern=r"^[^\x00]*$")]
# Pixels, sides or degrees: no face lies further away.
_Number = Annotated[float, Field(gt=-1e6, lt=1e6)]
_NUMBERS: Any = dict.fromkeys(FaceGeometry._fields, (_Number, ...))
_Geometry: Any = create_model("_Geometry", **_NUMBERS)


class _Region(TypedDict, total=False):
    forged: Any
    types: list[Any]


class _Line(BaseModel):
    """What a line may hold, as the file has it."""

    id: _Text = ""
    error: _Text = ""
    real: _Path
    fake: _Path = ""
    label: Any = None
    regions: Annotated[dict[str, _Region], BeforeValidator(lambda value: value or {})] = {}
    caption: _Caption = ""
    caption_key: _Text = ""
    source: _Text = ""
    mask: _Path = ""
    captions: _Texts = []
    raw_caption: _Caption = ""
    real_captions: _Texts = []
    real_caption_key: _Text = ""
    dataset: _Text = ""
    method: _Text = ""
    video: _Text = ""
    real_video: _Text = ""
    frame: _Text = ""
    real_frame: _Text = ""
    split: _Text = ""
    geometry: _Geometry | None = None


@dataclasses.dataclass(frozen=True)
class Annotation:
    """A pair, or a real alone.

    Attributes:
        id: unique in the packed set.
        real: path of the real image, None where the real of a fake is not known.
        fake: path of the fake, None for a real alone.
        mask: path of the fake's forgery mask.
        captions: of the fake, the annotation's own first; of a real alone, empty.
        raw_caption: the fake's caption before refinement.
        caption_key: of the fake's captions.
        source: where the fake's caption comes from, one of `vocabulary.CAPTION_SOURCES`.
        real_captions: at least one where there is a real.
        real_caption_key: of the real's captions.
        regions: [4] int flags.
        types: [4, 5] int flags.
        dataset: name of the data set.
        method: of the fake.
        video: of the fake, "" when unknown.
        real_video: of the real, "" when unknown.
        frame: of the fake, or of a real alone; "" when unknown.
        real_frame: of the real.
        split: "" when the line states none.
        geometry: how the face lies in both pictures, None when unknown.
    """

    id: str
    real: Path | None
    fake: Path | None
    mask: Path | None
    captions: tuple[str, ...]
    raw_caption: str
    caption_key: str
    source: str
    real_captions: tuple[str, ...]
    real_caption_key: str
    regions: np.ndarray
    types: np.ndarray
    dataset: str
    method: str
    video: str
    real_video: str
    frame: str
    real_frame: str
    split: str
    geometry: FaceGeometry | None = None


def parse_line(line: bytes, file: Path) -> Annotation | str:
    """Reads one line; returns the error's code for a pair that was never annotated.

    Raises:
        UserError: the line is not an annotation. The message names neither file nor line number: the
            caller knows them.
    """
    try:
        content = parse_json(line, lenient=True)
    except ValueError as error:
        raise UserError(f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError("not a JSON object")
    failure = _text(content.get("error"))
    if failure and isinstance(failure, str) and content.get("caption") in (None, ""):
        return failure.split(":", 1)[0].strip()
    try:
        fields = _Line.model_validate(content)
    except ValidationError as error:
        raise UserError(_in_one_line(error)) from None
    if not fields.id:
        raise UserError("has no id")
    folder = file.parent
    real = folder / fields.real if fields.real else None
    fake = folder / fields.fake if fields.fake else None
    if real is None and fake is None:
        raise UserError("names no real image (null where the real of a fake is not known)")
    label = REAL if fake is None else FAKE
    if "label" in content and fields.label != label:
        raise UserError(
            f"has label {fields.label!r}, but it names {'no fake' if fake is None else 'a fake'}"
        )
    forged, regions, types = _flags(fields.regions)
    if label == FAKE and not fields.caption:
        raise UserError("has no caption: annotate it with `python -m launch.annotate`")
    if label == FAKE and fields.method == "real":
        raise UserError("is a fake of the method 'real'")
    source = fields.source or CAPTION_SOURCES[0]
    if source not in CAPTION_SOURCES:
        raise UserError(
            f"has the caption source {source!r}, not one of {', '.join(CAPTION_SOURCES)}"
        )
    split = split_name(fields.split) if fields.split else ""
    if split is None:
        raise UserError(f"has the split {fields.split!r}, not one of {', '.join(SPLITS)}")
    key = fields.caption_key
    if label == FAKE and not key:
        key = caption_writer.caption_key(FAKE, forged)
    return Annotation(
        id=fields.id,
        real=real,
        fake=fake,
        mask=folder / fields.mask if fields.mask else None,
        captions=_unique(fields.caption, *fields.captions) if label == FAKE else (),
        raw_caption=fields.raw_caption or fields.caption,
        caption_key=key,
        source=source,
        real_captions=_unique(*fields.real_captions)
        or ((caption_writer.caption(REAL, {}, seed=fields.real),) if real else ()),
        real_caption_key=fields.real_caption_key or caption_writer.caption_key(REAL, {}),
        regions=regions,
        types=types,
        dataset=fields.dataset or file.stem,
        method="real" if label == REAL else fields.method or "unknown",
        video=fields.video,
        real_video=fields.real_video or _video_of_real(fields.video, real, fake),
        frame=fields.frame,
        real_frame=fields.real_frame or fields.frame,
        split=split,
        geometry=fields.geometry and FaceGeometry(*vars(fields.geometry).values()),
    )


def _in_one_line(error: ValidationError) -> str:
    fault = error.errors(include_url=False, include_context=False)[0]
    name, *inner = map(str, fault["loc"])
    if fault["type"] == "string_too_long":
        return f"has a text in {name!r:.80} that is longer than such a text may be"
    if fault["type"] == "string_pattern_mismatch":
        return f"has a path in {name!r} that contains a null byte"
    if name == "real" and fault["type"] == "missing":
        return "names no real image (null where the real of a fake is not known)"
    if name == "geometry":
        return f"has a geometry that is not {{{', '.join(FaceGeometry._fields)}}}, numbers each"
    if name == "regions" and not inner:
        return "has `regions` that are not an object"
    if name == "regions" and inner[0] in REGIONS:
        return f"has a region {inner[0]!r} that is not {{forged, types}}"
    if name == "regions":
        return _unknown_region(inner[0])
    return f"has {name!r} that is not {'a list of text' if name.endswith('captions') else 'text'}"


def _video_of_real(video: str, real: Path | None, fake: Path | None) -> str:
    """The real's video, from the fake's: its own folder where folders are videos, else by name.

    FaceForensics++ calls a fake TARGET_SOURCE; the real that it is compared with is TARGET.
    """
    if real is None or fake is None or not video:
        return video
    if fake.parent.name == video:
        return real.parent.name
    target, _, source = video.partition("_")
    return target if target.isdigit() and source.isdigit() else video


def _unknown_region(name: str) -> str:
    return f"has the region {name!r}, not one of {', '.join(REGIONS)}"


def _flags(
    regions: dict[str, _Region],
) -> tuple[dict[str, list[str]], np.ndarray, np.ndarray]:
    forged: dict[str, list[str]] = {}
    region_flags = np.zeros(len(REGIONS), np.int64)
    type_flags = np.zeros((len(REGIONS), len(TYPES)), np.int64)
    for name, region in regions.items():
        if name not in REGIONS:
            raise UserError(_unknown_region(name))
        if not region.get("forged"):
            continue
        forged[name] = region.get("types", [])
        region_flags[REGIONS.index(name)] = 1
        for kind in forged[name]:
            if kind not in TYPES:
                raise UserError(f"has the type {kind!r} in {name!r}, not one of {', '.join(TYPES)}")
            type_flags[REGIONS.index(name), TYPES.index(kind)] = 1
    return forged, region_flags, type_flags


def _unique(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text.strip()))
