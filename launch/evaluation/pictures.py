"""Pictures of a report's examples, from the packed sets that hold them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from jax_vlffd.evaluation.scores import Scores

#: Longer side of a report's picture in pixels.
_SIDE: Final = 192


def thumbnails(
    scores: Scores, rows: Iterable[int], sets: Mapping[str, Path], split: str
) -> dict[int, bytes]:
    """Small JPEGs of the pictures of some rows of a scores table, by row.

    Args:
      scores: the table.
      rows: of it.
      sets: packed sets by name.
      split: of them.
    """
    from data_pipeline.packed.reader import PackedSplit

    wanted = {(str(scores.set_name[row]), str(scores.id[row])): row for row in rows}
    found: dict[int, bytes] = {}
    for set_name, folder in sets.items():
        missing = {record: row for (name, record), row in wanted.items() if name == set_name}
        if not missing:
            continue
        opened = PackedSplit(folder, split)
        for index in range(len(opened)):
            if not missing:
                break
            record = opened[index]
            if record.id in missing:
                found[missing.pop(record.id)] = _small(record.image)
    return found


def _small(data: bytes) -> bytes:
    """A JPEG of at most _SIDE pixels a side; empty when the picture does not decode."""
    import cv2

    from data_pipeline.core.images import InputError, decode_image

    try:
        image = decode_image(data)
    except InputError:
        return b""
    scale = _SIDE / max(image.shape[:2])
    if scale < 1:
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])[1]
    return encoded.tobytes()
