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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline import captions as caption_writer
from data_pipeline.core.json_reading import parse_json
from data_pipeline.core.tables import split_name
from data_pipeline.packed.record import SPLITS
from jax_vlffd.errors import UserError
from jax_vlffd.preprocessing import FaceGeometry
from jax_vlffd.vocabulary import CAPTION_SOURCES, FAKE, REAL, REGIONS, TYPES

_FAR = 1e6  # pixels, sides or degrees: no face lies there


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
        UserError: the line is no annotation. The message names neither file nor line number: the
            caller knows them.
    """
    try:
        content = parse_json(line, lenient=True)
    except ValueError as error:
        raise UserError(f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise UserError("not a JSON object")
    failure = _text(content, "error")
    caption = _text(content, "caption")
    if failure and not caption:
        return failure.split(":", 1)[0].strip()
    name = _text(content, "id") or _fail("has no id")
    real, fake = _path(content, "real", file), _path(content, "fake", file)
    if "real" not in content or (real is None and fake is None):
        _fail("names no real image (null where the real of a fake is not known)")
    label = content.get("label", REAL if fake is None else FAKE)
    if label not in (REAL, FAKE) or (label == FAKE) != (fake is not None):
        _fail(f"has label {label!r}, but it names {'no fake' if fake is None else 'a fake'}")
    forged, regions, types = _flags(content.get("regions") or {})
    if label == FAKE and not caption:
        _fail("has no caption: annotate it with `python -m launch.annotate`")
    key = _text(content, "caption_key")
    if label == FAKE and not key:
        key = caption_writer.caption_key(FAKE, forged)
    source = _text(content, "source") or CAPTION_SOURCES[0]
    if source not in CAPTION_SOURCES:
        _fail(f"has the caption source {source!r}, not one of {', '.join(CAPTION_SOURCES)}")
    video = _text(content, "video")
    return Annotation(
        id=name,
        real=real,
        fake=fake,
        mask=_path(content, "mask", file),
        captions=_unique(caption, *_texts(content, "captions")) if label == FAKE else (),
        raw_caption=_text(content, "raw_caption") or caption,
        caption_key=key,
        source=source,
        real_captions=_unique(*_texts(content, "real_captions"))
        or ((caption_writer.caption(REAL, {}, seed=_text(content, "real")),) if real else ()),
        real_caption_key=_text(content, "real_caption_key") or caption_writer.caption_key(REAL, {}),
        regions=regions,
        types=types,
        dataset=_text(content, "dataset") or file.stem,
        method=_method(content, label),
        video=video,
        real_video=_text(content, "real_video") or _video_of_real(video, real, fake),
        frame=_text(content, "frame"),
        real_frame=_text(content, "real_frame") or _text(content, "frame"),
        split=_split(_text(content, "split")),
        geometry=_geometry(content.get("geometry")),
    )


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


def _geometry(content: Any) -> FaceGeometry | None:
    if content is None:
        return None
    try:
        found = FaceGeometry(*(float(content[name]) for name in FaceGeometry._fields))
    except (KeyError, TypeError, ValueError, OverflowError):
        found = None
    if found is None or not all(abs(value) < _FAR for value in found):  # nor for NaN
        _fail(f"has a geometry that is not {{{', '.join(FaceGeometry._fields)}}}, numbers each")
    return found


def _flags(regions: Any) -> tuple[dict[str, list[str]], np.ndarray, np.ndarray]:
    if not isinstance(regions, Mapping):
        _fail("has `regions` that are no object")
    forged: dict[str, list[str]] = {}
    region_flags = np.zeros(len(REGIONS), np.int64)
    type_flags = np.zeros((len(REGIONS), len(TYPES)), np.int64)
    for name, content in regions.items():
        if name not in REGIONS:
            _fail(f"has the region {name!r}, not one of {', '.join(REGIONS)}")
        if not isinstance(content, Mapping) or not isinstance(content.get("types", []), list):
            _fail(f"has a region {name!r} that is not {{forged, types}}")
        if not content.get("forged"):
            continue
        forged[name] = list(content.get("types", []))
        region_flags[REGIONS.index(name)] = 1
        for kind in forged[name]:
            if kind not in TYPES:
                _fail(f"has the type {kind!r} in {name!r}, not one of {', '.join(TYPES)}")
            type_flags[REGIONS.index(name), TYPES.index(kind)] = 1
    return forged, region_flags, type_flags


def _method(content: dict[str, Any], label: int) -> str:
    method = _text(content, "method")
    if label == REAL:
        return "real"
    if method == "real":
        _fail("is a fake of the method 'real'")
    return method or "unknown"


def _split(name: str) -> str:
    split = split_name(name) if name else ""
    if split is None:
        return _fail(f"has the split {name!r}, not one of {', '.join(SPLITS)}")
    return split


def _text(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        _fail(f"has {name!r} that is not text")
    return str(value)


def _texts(content: dict[str, Any], name: str) -> tuple[str, ...]:
    values = content.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        _fail(f"has {name!r} that is not a list of text")
    return tuple(values)


def _path(content: dict[str, Any], name: str, file: Path) -> Path | None:
    value = _text(content, name)
    return file.parent / value if value else None


def _unique(*texts: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def _fail(message: str) -> Any:
    raise UserError(message)
