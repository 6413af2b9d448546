"""Imports existing face crops into a prepared set, unchanged."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from data_pipeline.core.files import inside
from data_pipeline.core.frame_numbers import FaceKey, first_faces
from data_pipeline.core.images import read_image
from data_pipeline.core.video import evenly_spaced
from data_pipeline.datasets.base import Video, faces_of
from data_pipeline.faces.frame_registration import likeness, onto_real
from data_pipeline.faces.landmarks import landmark_paths
from data_pipeline.preparation.store import PreparedFrame, PreparedVideo, crop_path, folder_of

#: Crops of a pair that are compared before a stated pair is believed.
_COMPARED: Final = 3


def take(
    out: Path,
    frames: int,
    reference: tuple[Video, PreparedVideo],
    fakes: Sequence[tuple[Video, PreparedVideo]],
) -> None:
    """Takes crops, landmarks and masks of a group into `out`, by hard links where that is possible.

    A frame of a fake is paired with the frame of its real that has the same number, and of several
    faces with the one that is most alike. A fake whose crops do not look like its real's, or whose
    files' names do not hold frame numbers, is taken without it.

    Args:
      out: folder of the prepared set.
      frames: at most this many of each video, evenly spaced.
      reference: the real, or a fake alone, and its outcome, to which frames are added.
      fakes: the fakes and their outcomes.
    """
    video, outcome = reference
    real_faces, masks = faces_of(video)
    numbers = {key.number for key in real_faces.files}
    paired_keys: set[FaceKey] = set()
    for fake, fake_outcome in fakes:
        fake_faces, fake_masks = faces_of(fake)
        fake_numbers = {key.number for key in fake_faces.files}
        shared = sorted(numbers & fake_numbers)
        # Positions say what belongs together only where no picture is missing.
        numbered = (real_faces.by_name and fake_faces.by_name) or len(real_faces.files) == len(
            fake_faces.files
        )
        paired = (
            numbered and bool(shared) and _alike(real_faces.files, first_faces(fake_faces), shared)
        )
        chosen = set(_spaced(shared if paired else fake_numbers, frames))
        if paired:
            fake_outcome.skipped += Counter(no_such_frame_in_real=len(fake_numbers) - len(shared))
        else:
            fake_outcome.remarks[
                "unpaired_unlike_real" if numbered else "unpaired_no_frame_numbers"
            ] += 1
        for key in sorted(key for key in fake_faces.files if key.number in chosen):
            real = ""
            if paired:
                at = _same_face(real_faces.files, fake_faces.files[key], key)
                paired_keys.add(at)
                real = crop_path(video, at.number, real_faces.files[at].suffix, at.rank)
            _add(out, fake, fake_outcome, key, fake_faces.files[key], fake_masks, real)
        _failed_if_empty(fake, fake_outcome)
    have = {frame.image for frame in outcome.frames}
    alone = set() if paired_keys else set(_spaced(numbers, frames))
    for key in sorted(paired_keys | {key for key in real_faces.files if key.number in alone}):
        if crop_path(video, key.number, real_faces.files[key].suffix, key.rank) not in have:
            _add(out, video, outcome, key, real_faces.files[key], masks, "")
    outcome.frames.sort()
    _failed_if_empty(video, outcome)


def _same_face(real: Mapping[FaceKey, Path], fake: Path, key: FaceKey) -> FaceKey:
    """Which crop of a real's frame shows the face of a fake's crop: the one that is most alike."""
    ranked = sorted(at for at in real if at.number == key.number)
    if len(ranked) == 1:
        return ranked[0]
    picture = read_image(fake)
    if picture is None:
        return key if key in real else ranked[0]
    read = {at: read_image(real[at]) for at in ranked}
    return max(ranked, key=lambda at: -1.0 if (p := read[at]) is None else likeness(picture, p))


def _alike(real: Mapping[FaceKey, Path], fake: Mapping[int, Path], shared: Sequence[int]) -> bool:
    compared = [shared[i] for i in evenly_spaced(len(shared), _COMPARED)]
    alike = 0
    for number in compared:
        at = _same_face(real, fake[number], FaceKey(number))
        a, b = read_image(real[at]), read_image(fake[number])
        alike += a is not None and b is not None and onto_real(b, a) is not None
    return 2 * alike > len(compared)


def _spaced(numbers: Collection[int], frames: int) -> list[int]:
    ordered = sorted(numbers)
    return [ordered[i] for i in evenly_spaced(len(ordered), frames)] if ordered else []


def _add(
    out: Path,
    video: Video,
    outcome: PreparedVideo,
    key: FaceKey,
    source: Path,
    masks: Mapping[int, Path],
    real: str,
) -> None:
    number = key.number
    path = crop_path(video, number, source.suffix, key.rank)
    _link(source, inside(out, path))
    points = next((at for at in landmark_paths(source) if os.path.isfile(at)), None)
    if points:
        _link(points, inside(out, f"{folder_of(video, 'landmarks')}/{Path(path).stem}.npy"))
    mask = ""
    if number in masks and not key.rank:
        mask = f"{folder_of(video, 'masks')}/{number:03d}{masks[number].suffix}"
        _link(masks[number], inside(out, mask))
    outcome.frames.append(PreparedFrame(number, path, real, mask))


def _link(source: Path, target: Path) -> None:
    """Puts a file at `target`, linked where that is possible; an old one there is replaced by a whole one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and target.samefile(source):
        return
    aside = target.with_name(f".new.{os.getpid()}")
    aside.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), aside)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, aside)
    os.replace(aside, target)


def _failed_if_empty(video: Video, outcome: PreparedVideo) -> None:
    if not outcome.frames:
        outcome.failed = f"no_frames: {video.path} holds no pictures"
