"""Splits that no person and no video crosses: reals that share one form a group."""

from __future__ import annotations

import hashlib
import re
from array import array

from data_pipeline.annotations import Annotation
from data_pipeline.records import SPLITS


class Groups:
    """Reals that share a person or a video, joined by union and find."""

    def __init__(self) -> None:
        self._parent = array("q")
        self._names: dict[str, int] = {}
        self._node_of_real: dict[int, int] = {}

    def join(self, real: int, pair: Annotation) -> None:
        """Joins a pair's real with the people its videos show, or with its own content."""
        names = people(pair.dataset, pair.video) | people(pair.dataset, pair.real_video)
        if not names and real not in self._node_of_real:
            image = pair.real or pair.fake
            assert image is not None
            names = {hashlib.sha256(image.read_bytes()).hexdigest()}
        nodes = [self._names.setdefault(name, len(self._names)) for name in sorted(names)]
        self._parent.extend(range(len(self._parent), len(self._names)))
        if real in self._node_of_real:
            nodes.append(self._node_of_real[real])
        for node in nodes:
            self._parent[self._find(node)] = self._find(nodes[0])
        self._node_of_real.setdefault(real, nodes[0])

    def splits(self, reals: int) -> dict[int, int]:
        """The split's number of each real: 80/10/10 by the hash of its group's first name."""
        first: dict[int, str] = {}
        for name, node in self._names.items():
            root = self._find(node)
            first[root] = min(name, first.get(root, name))
        chosen = {root: _hash_split(name) for root, name in first.items()}
        return {real: chosen[self._find(self._node_of_real[real])] for real in range(reals)}

    def _find(self, node: int) -> int:
        while self._parent[node] != node:
            self._parent[node] = self._parent[self._parent[node]]
            node = self._parent[node]
        return node


def people(dataset: str, video: str) -> set[str]:
    """Names of who is seen in a video, or of the video itself when its name tells no more.

    FaceForensics++ `183_253` shows 183 and 253, DeepFakeDetection `01_02__talking__ABC` 01 and 02,
    Celeb-DF `id0_id1_0000` id0 and id1.
    """
    if found := re.findall(r"(?<![A-Za-z0-9])id\d+", video):
        return {f"{dataset}/{name}" for name in found}
    if match := re.fullmatch(r"(\d+)(?:_(\d+))?(?:__.*)?", video):
        return {f"{dataset}/{name}" for name in match.groups() if name}
    return {f"{dataset}/{video}"} if video else set()


def _hash_split(name: str) -> int:
    share = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
    return SPLITS.index("train" if share < 0.8 else "validation" if share < 0.9 else "test")
