"""Crops of a family of videos, read side by side.

A real and its fakes are read at the same frame numbers, faces are found on the real alone, and
every fake is cropped by the real's matrix, so that a pair differs by the forgery and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from data_pipeline.datasets.video_records import Video
from data_pipeline.face_crops import (
    CropSettings,
    Image,
    Matrix,
    compose,
    crop,
    crop_matrix,
    find_faces,
    forged_face,
    landmarks_on_crop,
    move,
    onto_real,
    same_scene,
)
from data_pipeline.faces import Face, Finder, Points, open_finder
from data_pipeline.files import inside
from data_pipeline.prepared import Frame, Outcome, crop_path, folder_of
from data_pipeline.video import Frames, VideoError, evenly_spaced, open_frames

#: A fake shorter than this share of its real does not shorten the others.
_SHORT: Final = 0.5


class Cropper:
    """Crops families; the arguments are those of `preparation.Preparer`."""

    def __init__(
        self,
        out: Path,
        frames: int,
        settings: CropSettings,
        detector: str,
        finder: Finder | None,
    ):
        self._out = out
        self._frames = frames
        self._settings = settings
        self._detector = detector
        self._finder = finder

    def crop(
        self, lead: Video, outcome: Outcome, fakes: Sequence[tuple[Video, Outcome]], new: bool
    ) -> None:
        """Crops a lead and its fakes and notes what came of it in their outcomes.

        Args:
          lead: the real, or a fake alone.
          outcome: of the lead; of an earlier run where only fakes are new.
          fakes: each with its outcome.
          new: whether the lead itself is to be cropped.
        """
        alone: list[tuple[Video, Outcome, str]] = []
        with ExitStack() as stack:
            reader = _open(lead, outcome, stack)
            if reader is None:
                alone = [(*fake, "real_unreadable") for fake in fakes]
            else:
                followers = []
                for video, found in fakes:
                    frames = _open(video, found, stack)
                    if frames is None:
                        continue
                    if reader.lost_start or frames.lost_start:
                        # Frame numbers do not say any more what belongs together.
                        alone.append((video, found, "no_key_frame_at_start"))
                    else:
                        followers.append(_Follower(video, found, frames))
                if reader.lost_start and new:
                    outcome.remarks["no_key_frame_at_start"] += 1
                outcome.indices = outcome.indices or self._indices(reader, followers)
                for follower in followers:
                    follower.outcome.indices = outcome.indices
                self._read(lead, outcome, reader, followers, new)
                alone += [
                    (follower.video, follower.outcome, "unlike_real")
                    for follower in followers
                    if 2 * follower.outcome.skipped["unlike_real"] > len(outcome.indices)
                ]
        for video, found, reason in alone:
            self._alone(video, found, reason)

    def _alone(self, video: Video, outcome: Outcome, reason: str) -> None:
        """Crops a fake by its own faces, because it cannot be laid on its real."""
        for folder in ("frames", "landmarks"):
            shutil.rmtree(inside(self._out, folder_of(video, folder)), ignore_errors=True)
        outcome.frames, outcome.indices = [], []
        outcome.skipped.clear()
        outcome.remarks.clear()
        self.crop(video, outcome, (), new=True)
        outcome.remarks[f"unpaired_{reason}"] += 1

    def _indices(self, lead: Frames, followers: Sequence[_Follower]) -> list[int]:
        counts = [follower.frames.count for follower in followers]
        long = [count for count in counts if count >= _SHORT * lead.count]
        return evenly_spaced(min([lead.count, *long]), self._frames)

    def _read(
        self,
        lead: Video,
        outcome: Outcome,
        reader: Frames,
        followers: Sequence[_Follower],
        new: bool,
    ) -> None:
        have = {frame.image for frame in outcome.frames}
        for index in outcome.indices:
            frame = reader.read(index)
            faces = find_faces(self._faces(), frame) if frame is not None else []
            if frame is None or not faces:
                reason = "unreadable_frame" if frame is None else "no_face"
                if new:
                    outcome.skipped[reason] += 1
                for follower in followers:
                    follower.outcome.skipped[f"{reason}_in_real"] += 1
                continue
            matrices = [crop_matrix(frame, face.landmarks, self._settings) for face in faces]
            used = set()
            for follower in followers:
                rank = self._follow(follower, lead, index, frame, faces, matrices)
                used |= set() if rank is None else {rank}
            # The largest face, but where fakes changed another face, that one.
            for rank in sorted(used or ({0} if new else set())):
                if crop_path(lead, index, rank=rank) not in have:
                    expected = move(faces[rank].landmarks, matrices[rank])
                    path = self._write(lead, outcome, index, rank, frame, matrices[rank], expected)
                    outcome.frames.append(Frame(index, path))
        outcome.frames.sort()

    def _follow(
        self,
        follower: _Follower,
        lead: Video,
        index: int,
        frame: Image,
        faces: list[Face],
        matrices: Sequence[Matrix],
    ) -> int | None:
        """Crops one frame of a fake; which face of the real it is, or None."""
        picture = follower.frames.read(index)
        if picture is None:
            ended = index >= follower.frames.count
            follower.outcome.skipped["fake_is_shorter" if ended else "unreadable_frame"] += 1
            return None
        onto = follower.onto(picture, frame)
        if onto is None:
            follower.outcome.skipped["unlike_real"] += 1
            return None
        rank = forged_face(faces, frame, picture, onto)
        expected = move(faces[rank].landmarks, matrices[rank])
        matrix = compose(matrices[rank], onto)
        path = self._write(follower.video, follower.outcome, index, 0, picture, matrix, expected)
        follower.outcome.frames.append(Frame(index, path, crop_path(lead, index, rank=rank)))
        return rank

    def _write(
        self,
        video: Video,
        outcome: Outcome,
        index: int,
        rank: int,
        frame: Image,
        matrix: Matrix,
        expected: Points,
    ) -> str:
        """Writes a crop and its landmarks, and returns the crop's path."""
        image = crop(frame, matrix, self._settings.size)
        landmarks, again = landmarks_on_crop(self._faces(), image, expected)
        if not again:
            outcome.remarks["landmarks_not_found_again"] += 1
        path = crop_path(video, index, rank=rank)
        encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        points = f"{folder_of(video, 'landmarks')}/{Path(path).stem}.npy"
        np.save(_fresh(self._out, points), landmarks.astype(np.float32))
        _fresh(self._out, path).write_bytes(encoded.tobytes())
        return path

    def _faces(self) -> Finder:
        if self._finder is None:
            self._finder = open_finder(self._detector)
        return self._finder


class _Follower:
    """A fake that is read beside its real."""

    def __init__(self, video: Video, outcome: Outcome, frames: Frames):
        self.video = video
        self.outcome = outcome
        self.frames = frames
        self._onto: Matrix | None = None
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def onto(self, picture: Image, real: Image) -> Matrix | None:
        """How a frame lies on its real's: as the first that did, while the sizes stay."""
        shapes = (picture.shape, real.shape)
        if self._onto is None or self._shapes != shapes:
            self._onto, self._shapes = onto_real(picture, real), shapes
            return self._onto
        return self._onto if same_scene(picture, real, self._onto) else None


def _fresh(out: Path, name: str) -> Path:
    """Where to write a file anew; an old one may be a link to a file that is not ours."""
    path = inside(out, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    return path


def _open(video: Video, outcome: Outcome, stack: ExitStack) -> Frames | None:
    try:
        frames = open_frames(video.path)
    except VideoError as error:
        outcome.failed = str(error)
        return None
    stack.callback(frames.close)
    return frames
