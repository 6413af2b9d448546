"""From data sets to face crops: groups of videos, over processes, each once.

A real and the fakes made from it are the unit of work, because all of them are cropped by the faces
of the real; the video is the unit of what is done.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data_pipeline.core.parallel import ordered_map
from data_pipeline.datasets.base import Video
from data_pipeline.faces.alignment import CropSettings
from data_pipeline.faces.detection import FaceDetector
from data_pipeline.preparation import existing_crops, store
from data_pipeline.preparation.store import PreparedVideo
from data_pipeline.preparation.video_crops import Cropper
from jax_vlffd.errors import UserError, fault


@dataclass(frozen=True)
class VideoGroup:
    """A real and the fakes made from it, or a fake alone.

    Attributes:
      reference: the video that faces are found on: the real, or the only fake.
      manipulated: those that are cropped as the reference is; empty where the reference is a fake.
    """

    reference: Video
    manipulated: tuple[Video, ...] = ()

    @property
    def videos(self) -> tuple[Video, ...]:
        """The reference and what was made of it."""
        return (self.reference, *self.manipulated)


def video_groups(videos: Sequence[Video]) -> list[VideoGroup]:
    """Groups each real with the fakes made from it, in the order of their references.

    Crops as they lie on disk cannot be paired with a video that is yet to be cropped, so such a
    fake stands alone.
    """
    cropped = {video.key: video.cropped for video in videos}
    fakes: dict[str, list[Video]] = {}
    references = []
    for video in sorted(videos, key=lambda video: video.key):
        if video.real and cropped.get(video.real) == video.cropped:
            fakes.setdefault(video.real, []).append(video)
        else:
            references.append(replace(video, real=""))
    return [VideoGroup(video, tuple(fakes.get(video.key, ()))) for video in references]


class Preparer:
    """Prepares groups.

    Args:
      out: folder of the prepared set.
      frames: frames of each video.
      settings: of the crops.
      detector: name of the face detector, opened when the first frame is searched.
      face_detector: one to take instead.
    """

    def __init__(
        self,
        out: Path,
        frames: int = 32,
        settings: CropSettings | None = None,
        detector: str = "dlib",
        face_detector: FaceDetector | None = None,
    ):
        self._out = out
        self._frames = frames
        self._cropper = Cropper(out, frames, settings or CropSettings(), detector, face_detector)

    def prepare(self, group: VideoGroup) -> list[PreparedVideo]:
        """Prepares what is not done yet of a group, and returns the outcomes of all its videos.

        Raises:
          UserError: no face detector is installed, or a crop cannot be written.
        """
        done = {video.key: store.load(self._out, video) for video in group.videos}
        for fake in group.manipulated:
            before = done[fake.key]
            by_number = before is not None and bool(before.frames) and not before.timed
            if by_number and not fake.cropped and self._cropper.may_slip(group.reference, fake):
                store.discard(self._out, fake)
                done[fake.key] = None
        todo = [video for video in group.videos if done[video.key] is None]
        if todo:
            fresh = {
                video.key: PreparedVideo(video.key, store.stamp(video), timed=True)
                for video in todo
            }
            lead = done[group.reference.key] or fresh[group.reference.key]
            fakes = [(video, fresh[video.key]) for video in group.manipulated if video in todo]
            try:
                self._work(group, lead, fakes, new=group.reference in todo)
            except OSError as error:
                where = error.filename or self._out
                raise UserError(f"{where}: cannot be written ({error.strerror})") from error
            for video, outcome in ((group.reference, lead), *fakes):
                store.save(self._out, video, outcome)
                done[video.key] = outcome
        return [outcome for outcome in done.values() if outcome is not None]

    def _work(
        self,
        group: VideoGroup,
        lead: PreparedVideo,
        fakes: Sequence[tuple[Video, PreparedVideo]],
        new: bool,
    ) -> None:
        """Takes or crops a group; an unexpected error fails its videos, and the others go on."""
        try:
            if group.reference.cropped:
                existing_crops.take(self._out, self._frames, (group.reference, lead), fakes)
            else:
                self._cropper.crop(group.reference, lead, fakes, new)
        except (UserError, OSError):
            raise
        except Exception as error:
            for video, outcome in (*fakes, *([(group.reference, lead)] if new else [])):
                outcome.failed = f"fault: {video.path}: {fault(error)}"
                outcome.frames = []


def prepare_all(
    preparer: Preparer, todo: Sequence[VideoGroup], workers: int
) -> Generator[list[PreparedVideo], None, None]:
    """Prepares groups and yields their outcomes in order.

    Args:
      preparer: is copied into every process.
      todo: what to prepare.
      workers: processes; 1 works in this one.

    Raises:
      UserError: see `Preparer.prepare`; or a process was killed, most likely for memory.
    """
    return ordered_map(preparer.prepare, todo, workers)
