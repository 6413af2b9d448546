"""Crops a real video and its fakes, read in parallel.

A real and its fakes are read at the same moments, faces are found on the real alone, and every fake
is cropped by the real's matrix, so that a pair differs by the forgery and nothing else. A moment is a
frame number of the real; a fake whose frames may be others is aligned in time first.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import cv2
import numpy as np

from data_pipeline.core.files import inside
from data_pipeline.core.images import Image
from data_pipeline.core.video import (
    FileFrames,
    Frames,
    VideoError,
    count_packets,
    evenly_spaced,
    open_frames,
)
from data_pipeline.datasets.base import Video
from data_pipeline.faces.alignment import CropSettings, Matrix, compose, crop, crop_matrix, move
from data_pipeline.faces.cropper import detect_faces, landmarks_on_crop
from data_pipeline.faces.detection import Face, FaceDetector, open_detector
from data_pipeline.faces.frame_registration import forged_face, onto_real, same_scene
from data_pipeline.faces.landmarks import Points
from data_pipeline.preparation.store import (
    PreparedFrame,
    PreparedVideo,
    crop_path,
    discard,
    folder_of,
)
from data_pipeline.preparation.time_alignment import Thumbnails, align, may_slip, read_thumbnails
from jax_vlffd.errors import UserError

#: A fake shorter than this share of its real does not shorten the others.
_SHORT: Final = 0.5


class Cropper:
    """Crops groups of videos; the arguments are those of `preparation.Preparer`."""

    def __init__(
        self,
        out: Path,
        frames: int,
        settings: CropSettings,
        detector: str,
        face_detector: FaceDetector | None,
    ):
        self._out = out
        self._frames = frames
        self._settings = settings
        self._detector = detector
        self._face_detector = face_detector

    def crop(
        self,
        reference: Video,
        outcome: PreparedVideo,
        fakes: Sequence[tuple[Video, PreparedVideo]],
        new: bool,
    ) -> None:
        """Crops a reference and its fakes and notes what came of it in their outcomes.

        Args:
          reference: the real, or a fake alone.
          outcome: of the reference; of an earlier run where only fakes are new.
          fakes: each with its outcome.
          new: whether the reference itself is to be cropped.
        """
        alone: list[tuple[Video, PreparedVideo, str]] = []
        with ExitStack() as stack:
            reader = _open(reference, outcome, stack, new)
            if reader is None:
                alone = [(*fake, "real_unreadable") for fake in fakes]
            else:
                manipulated = []
                for video, own in fakes:
                    frames = _open(video, own, stack)
                    if frames is None:
                        continue
                    if reader.lost_start or frames.lost_start:
                        # Frame numbers do not say any more what belongs together.
                        alone.append((video, own, "no_key_frame_at_start"))
                    else:
                        manipulated.append(_Manipulated(video, own, frames))
                self._align(reference, reader, manipulated)
                outcome.indices = outcome.indices or self._indices(reader, manipulated)
                for fake in manipulated:
                    fake.outcome.indices = outcome.indices
                    fake.choose(outcome.indices)
                self._read(reference, outcome, reader, manipulated, new)
                alone += [
                    (fake.video, fake.outcome, reason)
                    for fake in manipulated
                    if (reason := fake.refused())
                ]
        for video, own, reason in alone:
            self._alone(video, own, reason)

    def may_slip(self, reference: Video, fake: Video) -> bool:
        """Whether a fake's frame numbers may be other moments than its real's; both are opened."""
        try:
            with (
                closing(open_frames(reference.path)) as real,
                closing(open_frames(fake.path)) as own,
            ):
                return may_slip(reference.path, real, fake.path, own)
        except VideoError:
            return False

    def _alone(self, video: Video, outcome: PreparedVideo, reason: str) -> None:
        """Crops a fake by its own faces, because it cannot be laid on its real."""
        discard(self._out, video)
        outcome.frames, outcome.indices = [], []
        outcome.skipped.clear()
        outcome.remarks.clear()
        self.crop(video, outcome, (), new=True)
        outcome.remarks[f"unpaired_{reason}"] += 1

    def _align(self, reference: Video, reader: Frames, manipulated: Sequence[_Manipulated]) -> None:
        """Aligns the fakes whose frame numbers may be other moments than those of their real."""
        of_reference: Thumbnails | None = None
        for fake in manipulated:
            if not may_slip(reference.path, reader, fake.video.path, fake.frames):
                continue
            pictures = _first(reference.path), _first(fake.video.path)
            if pictures[0] is None or pictures[1] is None:
                continue  # nothing of it will be paired
            size = (pictures[0].shape[1], pictures[0].shape[0])
            if of_reference is None:
                of_reference = read_thumbnails(
                    reference.path, size, detect=lambda frame: detect_faces(self._faces(), frame)
                )
            onto = None
            if pictures[0].shape != pictures[1].shape:
                onto = onto_real(pictures[1], pictures[0])
            own = read_thumbnails(fake.video.path, size, onto)
            fake.moments = align(own, of_reference)

    def _indices(self, reference: Frames, manipulated: Sequence[_Manipulated]) -> list[int]:
        counts = [fake.reach() for fake in manipulated]
        long = [count for count in counts if count >= _SHORT * reference.count]
        indices = evenly_spaced(min([reference.count, *long]), self._frames)
        have = [fake.moments for fake in manipulated if fake.moments is not None]
        near = _near(indices)
        # Rather a moment nearby that all fakes have than one that some have dropped.
        return [
            min(
                range(max(index - near, 0), index + near + 1),
                key=lambda at: (-sum(at in moments for moments in have), abs(at - index)),
            )
            for index in indices
        ]

    def _read(
        self,
        reference: Video,
        outcome: PreparedVideo,
        reader: Frames,
        manipulated: Sequence[_Manipulated],
        new: bool,
    ) -> None:
        have = {frame.image for frame in outcome.frames}
        asked = set(outcome.indices)
        for index in sorted(asked.union(*(fake.chosen for fake in manipulated))):
            due = [fake for fake in manipulated if index in fake.chosen]
            own = new and index in asked
            if not own and not due:
                continue
            frame = reader.read(index)
            faces, matrices, reason = self._find(frame)
            if frame is None or not faces:
                if own:
                    outcome.skipped[reason] += 1
                for fake in due:
                    fake.outcome.skipped[f"{reason}_in_real"] += 1
                continue
            used = set()
            for fake in due:
                try:
                    rank = self._follow(fake, reference, index, frame, faces, matrices)
                except (UserError, OSError):
                    raise
                except Exception:  # of this frame alone, whatever it is
                    fake.outcome.skipped["fault"] += 1
                    continue
                used |= set() if rank is None else {rank}
            # The largest face, but where fakes changed another face, that one.
            for rank in sorted(used or ({0} if own else set())):
                if crop_path(reference, index, rank=rank) not in have:
                    expected = move(faces[rank].landmarks, matrices[rank])
                    path = self._write(
                        reference, outcome, index, rank, frame, matrices[rank], expected
                    )
                    outcome.frames.append(PreparedFrame(index, path))
        outcome.frames.sort()

    def _find(self, frame: Image | None) -> tuple[list[Face], list[Matrix], str]:
        """The faces of a frame, their crops, and why there are none."""
        if frame is None:
            return [], [], "unreadable_frame"
        face_detector = self._faces()
        try:
            faces = detect_faces(face_detector, frame)
            return (
                faces,
                [crop_matrix(face.landmarks, self._settings) for face in faces],
                "no_face",
            )
        except Exception:  # of this frame alone, whatever it is
            return [], [], "fault"

    def _follow(
        self,
        fake: _Manipulated,
        reference: Video,
        index: int,
        frame: Image,
        faces: list[Face],
        matrices: Sequence[Matrix],
    ) -> int | None:
        """Crops the frame of a fake at a moment; which face of the real it is, or None."""
        number = fake.chosen[index]
        picture = fake.frames.read(number)
        if picture is None:
            ended = number >= fake.frames.count
            fake.outcome.skipped["fake_is_shorter" if ended else "unreadable_frame"] += 1
            return None
        onto = fake.onto(picture, frame)
        if onto is None:
            fake.outcome.skipped["unlike_real"] += 1
            return None
        rank = forged_face(faces, frame, picture, onto)
        expected = move(faces[rank].landmarks, matrices[rank])
        matrix = compose(matrices[rank], onto)
        path = self._write(fake.video, fake.outcome, number, 0, picture, matrix, expected)
        real = crop_path(reference, index, rank=rank)
        fake.outcome.frames.append(PreparedFrame(number, path, real, real_number=index))
        return rank

    def _write(
        self,
        video: Video,
        outcome: PreparedVideo,
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

    def _faces(self) -> FaceDetector:
        if self._face_detector is None:
            self._face_detector = open_detector(self._detector)
        return self._face_detector


class _Manipulated:
    """A fake that is read beside its real.

    Attributes:
      moments: frame number of the real -> that of the fake; None where they are the same.
      chosen: those of them that are cropped.
    """

    def __init__(self, video: Video, outcome: PreparedVideo, frames: Frames):
        self.video = video
        self.outcome = outcome
        self.frames = frames
        self.moments: Mapping[int, int] | None = None
        self.chosen: Mapping[int, int] = {}
        self._onto: Matrix | None = None
        self._shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    def reach(self) -> int:
        """The number of frames of the real up to the last that this fake shows."""
        return self.frames.count if self.moments is None else max(self.moments, default=-1) + 1

    def choose(self, indices: Sequence[int]) -> None:
        """Chooses the frames that are nearest to those of the real that are asked for."""
        if self.moments is None:
            self.chosen = {index: index for index in indices}
            return
        near = _near(indices)
        last = max(self.moments, default=-1)
        ends = bool(self.moments) and self.moments[last] + near + 1 >= self.frames.count
        chosen = {}
        for index in indices:
            at = min(self.moments, key=lambda at: abs(at - index), default=-1)
            if self.moments and abs(at - index) <= near:
                chosen[at] = self.moments[at]
            else:
                ended = ends and index > last
                self.outcome.skipped["fake_is_shorter" if ended else "misaligned"] += 1
        self.chosen = chosen

    def refused(self) -> str:
        """Why the whole fake is not paired, where most of its frames are not; else ""."""
        skipped = self.outcome.skipped
        wrong = {reason: skipped[reason] for reason in ("misaligned", "unlike_real")}
        if 2 * sum(wrong.values()) <= len(self.outcome.indices):
            return ""
        return max(wrong, key=lambda reason: wrong[reason])

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


def _open(
    video: Video, outcome: PreparedVideo, stack: ExitStack, new: bool = True
) -> Frames | None:
    try:
        frames = open_frames(video.path)
    except VideoError as error:
        outcome.failed = str(error)
        return None
    stack.callback(frames.close)
    remarks = {"hdr_not_converted": frames.hdr, "no_key_frame_at_start": frames.lost_start > 0}
    if isinstance(frames, FileFrames):
        there = count_packets(video.path) - frames.lost_start
        if 0 < there < frames.count:  # those that are asked for are spread over what is there
            remarks["fewer_frames_than_stated"] = True
            frames.count = there
    if new:
        outcome.remarks.update(name for name, true in remarks.items() if true)
    return frames


def _first(path: Path) -> Image | None:
    """The first frame of a video that has been opened before."""
    frames = open_frames(path)
    picture = frames.read(0)
    frames.close()
    return picture


def _near(indices: Sequence[int]) -> int:
    """How far from an asked frame another may be, so that no two are the same."""
    apart = [after - before for before, after in itertools.pairwise(indices)]
    return (min(apart) - 1) // 2 if apart else 0
