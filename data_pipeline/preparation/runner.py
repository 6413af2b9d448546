"""From data sets to face crops: families of videos, over processes, each once.

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
from data_pipeline.preparation.store import Outcome
from data_pipeline.preparation.video_crops import Cropper
from jax_vlffd.errors import UserError, fault


@dataclass(frozen=True)
class Family:
    """A real and the fakes made from it, or a fake alone.

    Attributes:
      lead: the video that faces are found on: the real, or the only fake.
      fakes: those that are cropped as the lead is; empty where the lead is a fake.
    """

    lead: Video
    fakes: tuple[Video, ...] = ()

    @property
    def videos(self) -> tuple[Video, ...]:
        """The lead and the fakes."""
        return (self.lead, *self.fakes)


def families(videos: Sequence[Video]) -> list[Family]:
    """Groups videos into families, in the order of their leads.

    Crops as they lie on disk cannot be paired with a video that is yet to be cropped, so such a
    fake stands alone.
    """
    cropped = {video.key: video.cropped for video in videos}
    fakes: dict[str, list[Video]] = {}
    leads = []
    for video in sorted(videos, key=lambda video: video.key):
        if video.real and cropped.get(video.real) == video.cropped:
            fakes.setdefault(video.real, []).append(video)
        else:
            leads.append(replace(video, real=""))
    return [Family(lead, tuple(fakes.get(lead.key, ()))) for lead in leads]


class Preparer:
    """Prepares families.

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

    def prepare(self, family: Family) -> list[Outcome]:
        """Prepares what is not done yet of a family, and returns the outcomes of all its videos.

        Raises:
          UserError: no face detector is installed, or a crop cannot be written.
        """
        done = {video.key: store.load(self._out, video) for video in family.videos}
        for fake in family.fakes:
            before = done[fake.key]
            by_number = before is not None and bool(before.frames) and not before.timed
            if by_number and not fake.cropped and self._cropper.may_slip(family.lead, fake):
                store.discard(self._out, fake)
                done[fake.key] = None
        todo = [video for video in family.videos if done[video.key] is None]
        if todo:
            fresh = {
                video.key: Outcome(video.key, store.stamp(video), timed=True) for video in todo
            }
            lead = done[family.lead.key] or fresh[family.lead.key]
            fakes = [(video, fresh[video.key]) for video in family.fakes if video in todo]
            try:
                self._work(family, lead, fakes, new=family.lead in todo)
            except OSError as error:
                where = error.filename or self._out
                raise UserError(f"{where}: cannot be written ({error.strerror})") from error
            for video, outcome in ((family.lead, lead), *fakes):
                store.save(self._out, video, outcome)
                done[video.key] = outcome
        return [outcome for outcome in done.values() if outcome is not None]

    def _work(
        self, family: Family, lead: Outcome, fakes: Sequence[tuple[Video, Outcome]], new: bool
    ) -> None:
        """Takes or crops a family; what nobody foresaw is the outcome of its videos, and others go on."""
        try:
            if family.lead.cropped:
                existing_crops.take(self._out, self._frames, (family.lead, lead), fakes)
            else:
                self._cropper.crop(family.lead, lead, fakes, new)
        except (UserError, OSError):
            raise
        except Exception as error:
            for video, outcome in (*fakes, *([(family.lead, lead)] if new else [])):
                outcome.failed = f"fault: {video.path}: {fault(error)}"
                outcome.frames = []


def prepare_all(
    preparer: Preparer, todo: Sequence[Family], workers: int
) -> Generator[list[Outcome], None, None]:
    """Prepares families and yields their outcomes in order.

    Args:
      preparer: is copied into every process.
      todo: what to prepare.
      workers: processes; 1 works in this one.

    Raises:
      UserError: see `Preparer.prepare`; or a process was killed, most likely for memory.
    """
    return ordered_map(preparer.prepare, todo, workers)
