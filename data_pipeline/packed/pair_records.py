"""The records of a pair: its real with all captions that lines give it, and its fake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from data_pipeline.core.images import MAX_BYTES, InputError, image_size, read_picture
from data_pipeline.packed.annotation import Annotation
from data_pipeline.packed.record import Record
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_regular

_PNG: Final = b"\x89PNG\r\n\x1a\n"


def real_record(pairs: Sequence[tuple[Annotation, str]]) -> Record:
    """The record of a real, from all the lines it occurs in: its captions are merged.

    It is called after the line that has it alone, else after the first pair: `<id>/real`.
    """
    pair, where = next((p for p in pairs if p[0].fake is None), pairs[0])
    assert pair.real is not None
    captions = dict.fromkeys(text for p, _ in pairs for text in p.real_captions)
    name = pair.id if pair.fake is None else f"{pair.id}/real"
    return Record(
        id=name,
        image=_image(pair.real, where),
        label=0,
        dataset=pair.dataset,
        method="real",
        video=pair.real_video or name,
        frame=pair.real_frame,
        pair="",
        captions=tuple(captions),
        raw_caption=next(iter(captions)),
        caption_key=pair.real_caption_key,
        regions=np.zeros_like(pair.regions),
        types=np.zeros_like(pair.types),
    )


def fake_record(pair: Annotation, where: str, real_id: str) -> Record:
    """The record of a line's fake; `real_id` is "" where its real is not known."""
    assert pair.fake is not None
    return Record(
        id=pair.id,
        image=_image(pair.fake, where),
        label=1,
        dataset=pair.dataset,
        method=pair.method,
        video=pair.video or pair.id,
        frame=pair.frame,
        pair=real_id,
        captions=pair.captions,
        raw_caption=pair.raw_caption,
        caption_key=pair.caption_key,
        regions=pair.regions,
        types=pair.types,
        mask=b"" if pair.mask is None else _mask(pair.mask, where),
    )


def _mask(path: Path, where: str) -> bytes:
    """A mask as PNG: as it is stored, or encoded anew where it has another of the formats that are read."""
    data = _read(path, where)
    if data.startswith(_PNG):
        return data
    try:
        return cv2.imencode(".png", read_picture(path, gray=True).image)[1].tobytes()
    except InputError as error:
        raise UserError(f"{where}: the mask {error}") from error


def _image(path: Path, where: str) -> bytes:
    data = _read(path, where)
    try:
        image_size(data)
    except InputError as error:
        raise UserError(f"{where}: {path}: {error}") from error
    return data


def _read(path: Path, where: str) -> bytes:
    try:
        return read_regular(path, MAX_BYTES)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
