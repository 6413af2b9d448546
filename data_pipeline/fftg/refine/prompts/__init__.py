"""The prompts: the four of the paper (section 3.2) with one image, and the content key of a question.

The task description is the system message; the visual prompt, the image, the guide with the
evidence and the pre-defined format are the user message. The texts are ours, in `prompts/<version>/`.
They contain no file names or other text of a data set, so a data set cannot inject instructions.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt

from data_pipeline.fftg.refine.grounding import forged_regions
from data_pipeline.fftg.refine.settings import RefineSettings
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import VERDICTS

Image = npt.NDArray[np.uint8]
Message = dict[str, Any]

_FOLDER = Path(__file__).parent
_FIGURES: Final = ("score", "threshold", "margin")
_NAMES: Final = ("visual", "guide", "task", "predefined")
_BAR = 8  # width in pixels of the white bar between the two faces
_JPEG_QUALITY = 95  # preserves fine grain at a fifth of a PNG's size
#: Words that a caption may use for each region: the clearest synonyms of the scorer.
_REGION_WORDS = {
    "mouth": "mouth, lips, teeth",
    "nose": "nose, nostrils",
    "eyes": "eyes, eyelids, eyebrows, pupils",
    "face": "facial skin, cheeks, chin, jaw, forehead",
}
#: Tokens of an image, (base, per tile of 512 px), from OpenAI's documentation; other models are similar.
_IMAGE_TOKENS = {"gpt-4o-mini": (2833, 5667)}
_DEFAULT_IMAGE_TOKENS = (85, 170)
_CHARACTERS_PER_TOKEN = 4.0


@dataclass(frozen=True)
class Prompts:
    """The four texts of a version, and a digest of them."""

    version: str
    visual: str
    guide: str
    task: str
    predefined: str
    digest: str


def load_prompts(version: str) -> Prompts:
    """Reads `prompts/<version>/{visual,guide,task,predefined}.txt`.

    Raises:
      UserError: unknown version.
    """
    known = sorted(p.name for p in _FOLDER.iterdir() if p.is_dir())
    if version not in known:
        raise UserError(f"--prompt_version={version}: the versions are {', '.join(known)}")
    folder = _FOLDER / version
    texts = {name: (folder / f"{name}.txt").read_text("utf-8").strip() for name in _NAMES}
    digest = hashlib.sha256("\0".join(texts[name] for name in _NAMES).encode()).hexdigest()[:12]
    return Prompts(version=version, digest=digest, **texts)


def content_key(
    annotation: Mapping[str, Any],
    real: Image,
    fake: Image,
    prompts: Prompts,
    settings: RefineSettings,
) -> str:
    """Returns the key of a question: hex SHA-256 of everything that decides its answer.

    That is both images' pixels, the mask settings, the forged regions and types (which also depend
    on the data set's mask, if any), the prompts, the model and the decoding.

    Args:
      annotation: the line; its forged regions and their types are read.
      real: uint8 [H, W, 3].
      fake: uint8 [H', W', 3].
      prompts: the texts.
      settings: model, decoding and mask settings are read.
    """
    parts = {
        "images": [_image_digest(real), _image_digest(fake)],
        "mask": settings.mask_settings,
        "found": {name: sorted(types) for name, types in forged_regions(annotation).items()},
        "prompts": [prompts.version, prompts.digest],
        "model": settings.model,
        "decoding": settings.decoding,
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def composite(real: Image, fake: Image, side: int) -> bytes:
    """Returns a JPEG of the two faces side by side, real on the left, with a white bar between them.

    Args:
      real: RGB uint8 [H, W, 3].
      fake: RGB uint8 [H', W', 3]; resized to the real's size.
      side: maximum side of each face in pixels; larger ones are reduced.

    Raises:
      ValueError: the image cannot be encoded.
    """
    height, width = real.shape[:2]
    scale = min(1.0, side / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    faces = [
        face if face.shape[1::-1] == size else cv2.resize(face, size, interpolation=cv2.INTER_AREA)
        for face in (real, fake)
    ]
    bar = np.full((size[1], _BAR, 3), 255, np.uint8)
    picture = np.concatenate([faces[0], bar, faces[1]], axis=1)
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    encoded, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    if not encoded:
        raise ValueError(f"cannot encode an image of shape {picture.shape}")
    return data.tobytes()


def messages(
    annotation: Mapping[str, Any], picture: bytes, prompts: Prompts, detail: str
) -> list[Message]:
    """Returns the chat messages that ask for the caption of a pair.

    Args:
      annotation: a line with at least one forged region.
      picture: the JPEG of `composite`.
      prompts: the texts.
      detail: detail level of the image at the endpoint.
    """
    forged = forged_regions(annotation)
    words = "; ".join(f"{name}: {_REGION_WORDS[name]}" for name in forged)
    guide = Template(prompts.guide).substitute(evidence=evidence_text(annotation))
    name, types = next(iter(forged.items()))
    form = Template(prompts.predefined).substitute(
        verdict=VERDICTS[int(annotation["label"])],
        example=json.dumps([{"region": name, "types": types[:1]}]),
        regions=", ".join(forged),
        words=words,
    )
    url = "data:image/jpeg;base64," + base64.b64encode(picture).decode()
    return [
        {"role": "system", "content": prompts.task},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": prompts.visual},
                {"type": "image_url", "image_url": {"url": url, "detail": detail}},
                {"type": "text", "text": guide},
                {"type": "text", "text": form},
            ],
        },
    ]


def evidence_text(annotation: Mapping[str, Any]) -> str:
    """Returns the evidence of the forged regions as text, one line per region and per type."""
    lines = []
    for name, types in forged_regions(annotation).items():
        region = annotation["regions"][name]
        evidence = region.get("evidence")
        evidence = evidence if isinstance(evidence, Mapping) else {}
        lines.append(f"{name}: changed{_figures(evidence.get('mask'))}")
        lines += [f"  {kind}{_figures(evidence.get(kind))}" for kind in types]
        if not types:
            lines.append("  no type of artifact could be told; describe how it looks wrong")
    return "\n".join(lines)


def estimate_tokens(conversation: Sequence[Message], size: tuple[int, int], model: str) -> int:
    """Returns an estimate of the prompt tokens of messages.

    Args:
      conversation: messages as of `messages` or `repair.repair_messages`.
      size: (height, width) of one face in the composite.
      model: the endpoint's name of the model.
    """
    characters = 0
    for message in conversation:
        content = message["content"]
        parts = [{"text": content}] if isinstance(content, str) else content
        characters += sum(len(part.get("text", "")) for part in parts)
    base, tile = _IMAGE_TOKENS.get(model, _DEFAULT_IMAGE_TOKENS)
    height, width = size[0], 2 * size[1] + _BAR
    tiles = math.ceil(height / 512) * math.ceil(width / 512)
    return math.ceil(characters / _CHARACTERS_PER_TOKEN) + base + tile * tiles


def _image_digest(image: Image) -> str:
    shape = "x".join(str(n) for n in image.shape)
    return shape + ":" + hashlib.sha256(np.ascontiguousarray(image).data).hexdigest()


def _figures(evidence: Any) -> str:
    """The figures of a region or type. Lines of other programs may hold anything: no text of theirs is sent."""
    if not isinstance(evidence, Mapping):
        return ""
    known = [
        f"{name} {value:.3g}"
        for name, value in evidence.items()
        if name in _FIGURES and isinstance(value, int | float)
    ]
    return f" ({', '.join(known)})" if known else ""
