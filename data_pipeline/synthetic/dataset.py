"""The demo's data set: drawn people, forged, captioned and split by identity.

Every frame of a person is forged in ways of the vocabulary; a test frame is forged again by kinds that
training never shows. A real and its fakes come from one picture, noise included, and are compressed at one
quality after the forging, so that neither noise nor compression tells them apart.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import functools
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from data_pipeline.captions import caption_key, paraphrases
from data_pipeline.core.files import new_folder
from data_pipeline.core.parallel import ordered_map
from data_pipeline.faces.regions import region_maps
from data_pipeline.synthetic import forgeries
from data_pipeline.synthetic.faces import draw_face, draw_identity
from data_pipeline.synthetic.forgeries import UNSEEN_KINDS
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE, REAL, REGIONS, TYPES

#: Shares of the identities; the rest is for testing.
_TRAIN, _VALIDATION = 0.7, 0.1
#: What cannot be seen: drawn skin has neither a shape nor the detail that these would take from it.
_INVISIBLE: Final = frozenset(
    {("face", "structure"), ("face", "ghost"), ("face", "blur"), ("nose", "structure")}
)
#: Shares of the fakes with one, two, three and four forged regions, where their kind has so many.
_COUNTS: Final = (0.1, 0.35, 0.35, 0.2)
#: Share of the fakes that get a second kind.
_MIXED: Final = 0.12
#: Captions of each picture.
_CAPTIONS: Final = 4
#: The columns of `pairs.csv` that an annotation line has too; the truth of each region follows.
_TABLE: Final = ("real", "fake", "dataset", "method", "video", "frame", "split")


@dataclasses.dataclass(frozen=True)
class DrawnSet:
    """What to draw.

    Attributes:
      identities: people, 10 or more; no person is in two splits.
      frames: pictures of each person.
      fakes: forgeries of each picture, each of another kind; 5 at most.
      size: side of a picture in pixels.
      seed: equal seeds give equal files.
      strength: lowest and highest strength of a forgery, in [0, 1].
    """

    identities: int = 1500
    frames: int = 1
    fakes: int = 2
    size: int = 64
    seed: int = 0
    strength: tuple[float, float] = (0.95, 1.0)


def write_drawn_set(
    out: Path,
    settings: DrawnSet,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    workers: int = 1,
) -> dict[str, int]:
    """Draws, forges and writes the set.

    Writes `annotations.jsonl` (splits train, validation, test, kinds of the vocabulary) and
    `unseen.jsonl` (split test, the same reals, `forgeries.UNSEEN_KINDS`), both for `launch.pack`;
    `pairs.csv` with the truth of each region, for `launch.annotate` and `launch.score_annotations`;
    `frames/`, `landmarks/` (.npy, [68, 2]) and `masks/` (where the fake was changed).

    Args:
      out: folder that does not exist yet or is empty; it appears only when it is whole.
      settings: what to draw.
      progress: called with the number of frames done and in all.
      workers: processes that draw; their number changes no file.

    Returns:
      The number of pairs by split, and under `unseen`.

    Raises:
      UserError: `out` is not empty, or settings that make no set.
    """
    _check(settings)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists already; give another --out or remove it")
    lines: dict[str, list[str]] = {"annotations": [], "unseen": []}
    rows: list[dict[str, object]] = []
    counts = dict.fromkeys(("train", "validation", "test", "unseen"), 0)
    total = settings.identities * settings.frames
    with contextlib.ExitStack() as stack:
        aside = stack.enter_context(new_folder(out))
        draw = functools.partial(_draw_frame, aside, settings)
        drawn = ordered_map(draw, range(total), min(workers, total), chunk=8, resumes=False)
        stack.callback(drawn.close)
        for done, (split, fakes, unseen) in enumerate(drawn, 1):
            for line in fakes:
                lines["annotations"].append(json.dumps(line))
                truth = {region: int(line["regions"][region]["forged"]) for region in REGIONS}
                rows.append({key: line[key] for key in _TABLE} | truth)
            lines["unseen"] += map(json.dumps, unseen)
            counts[split] += len(fakes)
            counts["unseen"] += len(unseen)
            progress(done, total)
        for name, texts in lines.items():
            (aside / f"{name}.jsonl").write_text("\n".join(texts) + "\n")
        with (aside / "pairs.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, [*_TABLE, *REGIONS], lineterminator="\n")
            table.writeheader()
            table.writerows(rows)
    return counts


def _draw_frame(
    folder: Path, settings: DrawnSet, order: int
) -> tuple[str, list[dict[str, Any]], list[dict[str, Any]]]:
    """Draws and forges the picture of this number: its split, the lines of its fakes, of the unseen."""
    person, number = divmod(order, settings.frames)
    split = split_of(person, settings.identities)
    frame = _Frame(folder, settings, person, number, split)
    fakes, unseen = [], []
    for turn in range(order * settings.fakes, (order + 1) * settings.fakes):
        fakes.append(frame.forge("fake", TYPES, turn))
        if split == "test":
            unseen.append(frame.forge("unseen", tuple(UNSEEN_KINDS), turn))
    return split, fakes, unseen


def _check(settings: DrawnSet) -> None:
    low, high = settings.strength
    if settings.identities < 10 or settings.frames < 1:
        raise UserError("a set needs 10 identities or more and a frame of each: raise --identities")
    if not 32 <= settings.size <= 1024:
        raise UserError(f"--size={settings.size}: give a side of 32 to 1024 pixels")
    if not 0 <= low <= high <= 1:
        raise UserError(f"strength {low} to {high}: give two numbers from 0 to 1, the lesser first")


def split_of(person: int, identities: int) -> str:
    """Returns the split of a person, given by number: train, validation or test."""
    share = person / identities
    if share < _TRAIN:
        return "train"
    return "validation" if share < _TRAIN + _VALIDATION else "test"


class _Frame:
    """One picture of a person, written to the set, and the fakes made of it."""

    def __init__(
        self, folder: Path, settings: DrawnSet, person: int, number: int, split: str
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.rng = np.random.default_rng((settings.seed, person, number))
        identity = draw_identity(np.random.default_rng((settings.seed, person)))
        self.image, self.landmarks = draw_face(identity, self.rng, settings.size)
        self.maps = region_maps(self.landmarks, settings.size, settings.size)
        self.quality = int(self.rng.integers(80, 98))
        self.name = f"p{person:04d}_{number}"
        self.columns = {"video": f"p{person:04d}", "frame": str(number), "split": split}
        self.real = f"frames/real/{self.name}.jpg"
        self._write(self.real, forgeries.encode_jpeg(self.image, self.quality))
        stored = io.BytesIO()
        np.save(stored, self.landmarks)
        self._write(f"landmarks/real/{self.name}.npy", stored.getvalue())

    def forge(self, folder: str, kinds: Sequence[str], turn: int) -> dict[str, Any]:
        """Writes a fake of this frame under `frames/<folder>` and gives its annotation line.

        The kinds take turns; a few fakes with kinds of the vocabulary have two.
        """
        rng = self.rng
        kind = kinds[turn % len(kinds)]
        steps = [
            (region, kind) for region in self._regions(kind, int(rng.choice(4, p=_COUNTS)) + 1)
        ]
        if kinds is TYPES and rng.random() < _MIXED:
            other_kind = str(rng.choice([k for k in kinds if k != kind]))
            steps += [(region, other_kind) for region in self._regions(other_kind, 1)]
        image = self.image
        types: dict[str, list[str]] = {}
        strengths: dict[str, float] = {}
        for region, step in steps:
            strength = rng.uniform(*self.settings.strength)
            donor = self._donor() if step == "splice" else None
            image = forgeries.plant(image, self.maps[region], step, strength, rng, donor)
            types.setdefault(region, []).extend(forgeries.types_of(step))
            strengths[region] = max(strength, strengths.get(region, 0.0))
        name = f"{self.name}_{kind}"
        fake, mask = f"frames/{folder}/{name}.jpg", f"masks/{folder}/{name}.png"
        self._write(fake, forgeries.encode_jpeg(image, self.quality))
        changed = (image != self.image).any(axis=2).astype(np.uint8) * 255
        self._write(mask, cv2.imencode(".png", changed)[1].tobytes())
        captions = paraphrases(FAKE, types, name, _CAPTIONS)
        real_captions = paraphrases(REAL, {}, self.name, _CAPTIONS)
        return {
            "id": name,
            "real": self.real,
            "fake": fake,
            "label": FAKE,
            "regions": {
                region: {
                    "forged": region in types,
                    "score": round(strengths.get(region, 0.0), 3),
                    "types": types.get(region, []),
                    "evidence": {},
                }
                for region in REGIONS
            },
            "raw_caption": captions[0],
            "caption": captions[0],
            "source": "raw",
            "error": None,
            "captions": captions[1:],
            "caption_key": caption_key(FAKE, types),
            "real_captions": real_captions,
            "real_caption_key": caption_key(REAL, {}),
            "mask": mask,
            "dataset": "drawn",
            "method": "mixed" if len({step for _, step in steps}) > 1 else kind,
            **self.columns,
        }

    def _regions(self, kind: str, count: int) -> list[str]:
        visible = [name for name in REGIONS if (name, kind) not in _INVISIBLE]
        count = min(count, len(visible))
        return [str(name) for name in self.rng.choice(visible, count, replace=False)]

    def _donor(self) -> NDArray[np.uint8]:
        image, landmarks = draw_face(draw_identity(self.rng), self.rng, self.settings.size)
        return forgeries.align_donor(image, landmarks, self.landmarks)

    def _write(self, name: str, data: bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
