"""Identity-disjoint splits: reals that share a person or a video form a group.

People are known by the names of videos or, on request, by their faces.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

from data_pipeline.packed.annotation import Annotation
from data_pipeline.packed.record import SPLITS

#: Shares of train, validation and test in per cent, unless others are asked for.
SHARES: Final = (80.0, 10.0, 10.0)


class Groups:
    """Reals that share a person or a video, joined."""

    def __init__(self) -> None:
        from scipy.cluster.hierarchy import DisjointSet

        self._names = DisjointSet()
        self._name_of_real: dict[int, str] = {}
        #: Reals of which no line names a video: their content alone tells them apart.
        self.unnamed_reals = 0

    def join(self, real: int, pair: Annotation) -> None:
        """Joins a pair's real with the people its videos show, or with its own content."""
        names = people(pair.dataset, pair.video) | people(pair.dataset, pair.real_video)
        if not names and real not in self._name_of_real:
            image = pair.real or pair.fake
            assert image is not None
            names = {hashlib.sha256(image.read_bytes()).hexdigest()}
            self.unnamed_reals += 1
        first = self._name_of_real.setdefault(real, min(names, default=""))
        for name in (first, *names):
            self._names.add(name)
            self._names.merge(name, first)

    def join_faces(self, groups: Sequence[int]) -> None:
        """Joins reals that are in one group: `groups` has the group of each real."""
        first: dict[int, int] = {}
        for real, group in enumerate(groups):
            one = first.setdefault(group, real)
            self._names.merge(self._name_of_real[one], self._name_of_real[real])

    def splits(self, reals: int, shares: Sequence[float] = SHARES) -> dict[int, int]:
        """The split's number of each real by the hash of its group's first name.

        Args:
          reals: how many there are.
          shares: of train, validation and test, in per cent.
        """
        first: dict[str, str] = {}
        for name in self._names:
            root = self._names[name]
            first[root] = min(name, first.get(root, name))
        chosen = {root: _hash_split(name, shares) for root, name in first.items()}
        return {real: chosen[self._names[self._name_of_real[real]]] for real in range(reals)}


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
