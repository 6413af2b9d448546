"""Questions and answers for trainers of multimodal models: JSON of LLaVA and ShareGPT from annotation lines."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from data_pipeline.packed.annotation import Annotation, parse_line
from jax_vlffd.errors import UserError
from jax_vlffd.jsonl import read_lines
from jax_vlffd.vocabulary import FAKE, LABEL_NAMES, REAL

#: The paper's question (section 4), word for word.
QUESTION: Final = (
    "Do you think this image is of a real face or a fake one? Please provide the reasons."
)
FORMS: Final = ("llava", "sharegpt")


class Example(NamedTuple):
    """A question about one picture.

    Attributes:
      id: of its annotation; of a real beside a fake, with `/real`.
      image: the picture.
      label: REAL or FAKE.
      answer: its caption, the annotation's own.
    """

    id: str
    image: Path
    label: int
    answer: str


def read_examples(file: Path, split: str | None = None) -> tuple[list[Example], Counter[str]]:
    """An example of every fake and, once, of every real of an annotation file.

    Args:
      file: JSON lines of `launch.annotate` or `launch.convert`.
      split: takes the lines of one split; None takes all.

    Returns:
      The examples in the order of the lines, and the lines without caption, counted by their code.

    Raises:
      UserError: a line is not an annotation, or no line is left.
    """
    left_out: Counter[str] = Counter()
    annotations = []
    for line in read_lines(file):
        try:
            annotation = parse_line(json.dumps(line).encode(), file)
        except UserError as error:
            raise UserError(f"{file}, annotation {line.get('id')!r:.100}: {error}") from error
        if isinstance(annotation, str):
            left_out[annotation] += 1
        elif split is None or annotation.split == split:
            annotations.append(annotation)
    if not annotations:
        raise UserError(
            f"{file}: no annotation with a caption{f' of split {split}' if split else ''}"
        )
    return list(_examples(annotations)), left_out


def _examples(annotations: Iterable[Annotation]) -> Iterator[Example]:
    reals: set[str] = set()
    for line in annotations:
        if line.fake is not None:
            yield Example(line.id, line.fake, FAKE, line.captions[0])
        if line.real is not None and (place := os.path.abspath(line.real)) not in reals:
            reals.add(place)
            id_ = line.id if line.fake is None else f"{line.id}/real"
            yield Example(id_, line.real, REAL, line.real_captions[0])


def balanced(examples: Sequence[Example], seed: int) -> list[Example]:
    """As many reals as fakes, in their order. Of the more frequent label, seed and ids decide which stay.

    Raises:
      UserError: one of the labels is missing.
    """
    counts = Counter(example.label for example in examples)
    count = min(counts[REAL], counts[FAKE])
    if not count:
        raise UserError(
            f"--balance: there are {counts[REAL]} real and {counts[FAKE]} fake pictures, and both are needed"
        )

    def draw(example: Example) -> bytes:
        return hashlib.sha256(f"{seed}|{example.id}".encode(errors="replace")).digest()

    kept = {
        id(example)
        for label in (REAL, FAKE)
        for example in sorted((e for e in examples if e.label == label), key=draw)[:count]
    }
    return [example for example in examples if id(example) in kept]


def document(examples: Iterable[Example], form: str, root: Path) -> str:
    """The JSON that a trainer reads, one record a picture.

    Args:
      examples: of `read_examples`.
      form: one of FORMS: `llava` has `image`, a path; `sharegpt` a list `images`.
      root: the folder that paths are relative to, which the trainer is given as its image folder.

    Raises:
      UserError: a picture lies outside of `root`.
    """
    home = os.path.join(os.path.abspath(root), "")
    records = []
    for example in examples:
        place = os.path.abspath(example.image)
        if not place.startswith(home):
            raise UserError(
                f"{example.image} is outside of {root}; give the folder that holds all pictures by --root"
            )
        records.append(_record(example, form, place.removeprefix(home)))
    return json.dumps(records, indent=1) + "\n"


def _record(example: Example, form: str, image: str) -> dict[str, Any]:
    return {
        "id": example.id,
        **({"image": image} if form == "llava" else {"images": [image]}),
        "label": LABEL_NAMES[example.label],
        "conversations": [
            {"from": "human", "value": f"<image>\n{QUESTION}"},
            {"from": "gpt", "value": example.answer},
        ],
    }
