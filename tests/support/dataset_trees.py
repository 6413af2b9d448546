"""Miniature trees of real encoded videos, in the layouts that the sets have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data_pipeline.core.video import open_frames
from data_pipeline.datasets import Collection, Video
from data_pipeline.datasets.base import crops
from tests.support.video_trees import write_picture


class Tree:
    """A data set in the making."""

    def __init__(self, root: Path, clip: bytes):
        self.root = root
        self._clip = clip

    def videos(self, *names: str) -> None:
        for name in names:
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._clip)

    def pictures(self, *names: str) -> None:
        for name in names:
            write_picture(self.root / name)

    def text(self, name: str, content: Any) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))


def by_name(result: Collection) -> dict[str, Video]:
    return {video.name: video for video in result.videos}


def check(result: Collection) -> None:
    """What is true of every collection: unique keys, reals that are there, files that open."""
    keys = {video.key: video for video in result.videos}
    assert len(keys) == len(result.videos)
    for video in result.videos:
        assert (video.method == "real") == (video.label == 0)
        assert not video.real or keys[video.real].label == 0
        assert not video.real or keys[video.real].split == video.split
        assert not (video.real and video.label == 0)
        assert "/" not in video.name
        assert video.split in ("", "train", "validation", "test")
        if video.cropped:
            assert crops(video)[0]
        else:
            open_frames(video.path).close()
