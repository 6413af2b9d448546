"""Small packed sets for the tests: drawn faces, written, annotated and packed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data_pipeline.packed.builder import pack

METHODS = ("Deepfakes", "FaceSwap")

#: What of a face of 40 x 40 pixels is forged.
FORGED = (slice(24, 32), slice(8, 32))


def draw(seed: int, size: int = 40) -> np.ndarray:
    """uint8 [size, size, 3], RGB: smooth, and different for every seed."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


def encode(image: np.ndarray, suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, image[..., ::-1])[1].tobytes()


def undecodable() -> bytes:
    """A PNG with a sound header and end, whose pixels are damaged."""
    data = bytearray(encode(draw(0)))
    data[60:-12] = bytes(len(data) - 72)
    return bytes(data)


def write_annotations(
    folder: Path,
    reals: int,
    methods: tuple[str, ...] = METHODS,
    *,
    split: str | None = "train",
    bad: tuple[int, ...] = (),
    captions: int = 2,
    masks: bool = False,
    **extra: Any,
) -> Path:
    """Writes images and an annotation file: each real with a fake of each method; returns the file.

    `bad` are numbers of reals whose fakes do not decode. With `masks`, each fake's lies beside it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(reals):
        real = draw(number)
        (folder / f"real_{number}.png").write_bytes(encode(real))
        for place, method in enumerate(methods):
            name = f"{method}_{number}"
            fake = real.copy()
            fake[FORGED] = 255 - fake[FORGED]
            data = undecodable() if number in bad else encode(fake, ".jpg")
            (folder / f"{name}.img").write_bytes(data)
            if masks:
                mask = np.zeros_like(real)
                mask[FORGED] = 255
                (folder / f"{name}_mask.png").write_bytes(encode(mask))
            texts = [f"This is a fake face. The mouth is odd, {name} {n}." for n in range(captions)]
            lines.append(
                {
                    "id": name,
                    "real": f"real_{number}.png",
                    "fake": f"{name}.img",
                    "label": 1,
                    "regions": {"mouth": {"forged": True, "types": ["blur"]}, "eyes": {}},
                    "raw_caption": f"raw {name}",
                    "caption": texts[0],
                    "captions": texts,
                    "source": ("raw", "refined")[place % 2],
                    "error": None,
                    "real_captions": [f"This is a real face. Fine, {number} {place}."],
                    "caption_key": "fake:mouth=blur",
                    "real_caption_key": "real",
                    "dataset": "drawn",
                    "method": method,
                    "video": f"{number:03d}_{number + 500:03d}",
                    "frame": place,
                    "split": split,
                    "mask": f"{name}_mask.png" if masks else None,
                    **extra,
                }
            )
    file = folder / "annotations.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def make_set(folder: Path, reals: int, methods: tuple[str, ...] = METHODS, **kwargs: Any) -> Path:
    """A packed set under `folder`; arguments as `write_annotations`."""
    file = write_annotations(folder / "images", reals, methods, **kwargs)
    out = folder / "packed"
    pack([file], out)
    return out
