"""Identity-disjoint splits: reals that share a person or a video form a group.

People are known by the names of videos or, on request, by their faces.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from data_pipeline.core.images import MAX_BYTES
from data_pipeline.packed.annotation import Annotation
from data_pipeline.packed.numbering import number
from data_pipeline.packed.record import SPLITS
from jax_vlffd.files import read_regular

#: Shares of train, validation and test in per cent, unless others are asked for.
SHARES: Final = (80.0, 10.0, 10.0)


class Groups:
    """Reals that share a person or a video, joined.

    A name is kept once, and a line is a number, so that ten million of them take little memory.

    Attributes:
      unnamed_reals: reals that only their content tells apart, because their first line names no video.
    """

    def __init__(self) -> None:
        self._names: dict[str, int] = {}
        self._joined: set[tuple[int, int]] = set()
        self._name_of_line = array("i")  # -1 where it names no video
        self.unnamed_reals = 0

    def add(self, pair: Annotation) -> None:
        """Adds the next line; the people whom its videos show are joined."""
        names = people(pair.dataset, pair.video) | people(pair.dataset, pair.real_video)
        numbers = [self._names.setdefault(name, len(self._names)) for name in sorted(names)]
        self._name_of_line.append(numbers[0] if numbers else -1)
        self._joined.update((numbers[0], other) for other in numbers[1:])

    def splits(
        self,
        real_of_line: np.ndarray,
        first_lines: np.ndarray,
        picture: Callable[[int], Path],
        shares: Sequence[float] = SHARES,
        faces: Sequence[int] = (),
    ) -> np.ndarray:
        """The split's number of each real, int8 [reals], by the hash of its group's first name.

        Args:
          real_of_line: int [lines], the number of each line's real.
          first_lines: int [reals], the first line of each.
          picture: of a line: what stands for its real, whose content joins it with equal ones where no
            video is named.
          shares: of train, validation and test, in per cent.
          faces: the group of each real that shows one face; empty where that is not known.
        """
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        name_of_line = np.frombuffer(self._name_of_line, np.int32)
        unnamed = np.flatnonzero(name_of_line[first_lines] < 0)
        self.unnamed_reals = len(unnamed)
        digests = np.empty((len(unnamed), 4), ">u8")
        for row, line in enumerate(first_lines[unnamed]):
            content = read_regular(picture(int(line)), MAX_BYTES)
            digests[row] = np.frombuffer(hashlib.sha256(content).digest(), ">u8")
        content_of_unnamed, rows = number(list(digests.T))
        # A graph of the reals, the names, the contents and the faces.
        names = len(first_lines)
        contents = names + len(self._names)
        ends = contents + len(rows)
        nodes = ends + (max(faces) + 1 if faces else 0)
        named = np.flatnonzero(name_of_line >= 0)
        keys = real_of_line[named].astype(np.int64) * nodes + names + name_of_line[named]
        edges = [
            np.stack(np.divmod(np.unique(keys), nodes)),
            names + np.array(sorted(self._joined), np.int64).reshape(-1, 2).T,
            np.stack([unnamed, contents + content_of_unnamed]),
            np.stack([np.arange(len(faces)), ends + np.array(faces, np.int64)]),
        ]
        start, end = np.concatenate(edges, axis=1).astype(np.int32)
        graph = coo_array((np.ones(len(start), np.int8), (start, end)), (nodes, nodes))
        group = connected_components(graph, directed=False)[1]
        first: dict[int, str] = {}
        for at, name in enumerate(self._names):
            root = int(group[names + at])
            first[root] = min(name, first.get(root, name))
        ordered = np.lexsort(digests[rows].T[::-1])[::-1]
        first_content = np.full(len(group), -1, np.int32)
        first_content[group[contents + ordered]] = ordered  # the smallest is written last
        chosen = np.zeros(len(group), np.int8)
        for root in np.unique(group[:names]):
            texts = [first[root]] if root in first else []
            if (at := first_content[root]) >= 0:
                texts.append(digests[rows[at]].tobytes().hex())
            chosen[root] = _hash_split(min(texts), shares)
        return chosen[group[:names]]


def people(dataset: str, video: str) -> set[str]:
    """Names of who is seen in a video, or of the video itself when its name tells no more.

    FaceForensics++ `183_253` shows 183 and 253, DeepFakeDetection `01_02__talking__ABC` 01 and 02,
    Celeb-DF `id0_id1_0000` id0 and id1.
    """
    if names := re.findall(r"(?<![A-Za-z0-9])id\d+", video):
        return {f"{dataset}/{name}" for name in names}
    if match := re.fullmatch(r"(\d+)(?:_(\d+))?(?:__.*)?", video):
        return {f"{dataset}/{name}" for name in match.groups() if name}
    return {f"{dataset}/{video}"} if video else set()


def _hash_split(name: str, shares: Sequence[float]) -> int:
    position = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64 * 100
    if position < shares[0]:
        return SPLITS.index("train")
    return SPLITS.index("validation" if position < shares[0] + shares[1] else "test")
