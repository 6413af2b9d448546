"""Crops that lie on disk already, taken into a prepared set as they are."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from data_pipeline.datasets.video_records import Video, crops
from data_pipeline.face_crops import onto_real
from data_pipeline.faces import landmark_paths
from data_pipeline.files import inside
from data_pipeline.prepared import Frame, Outcome, crop_path, folder_of
from data_pipeline.video import evenly_spaced, read_picture

#: Crops of a pair that are looked at before a stated pair is believed.
_LOOKED_AT: Final = 3


def take(
    out: Path,
    frames: int,
    lead: tuple[Video, Outcome],
    fakes: Sequence[tuple[Video, Outcome]],
) -> None:
    """Takes crops, landmarks and masks of a family into `out`, by hard links where that is possible.

    A frame of a fake is paired with the frame of its real that has the same number. A fake whose
    crops do not look like its real's is taken without it.

    Args:
      out: folder of the prepared set.
      frames: at most this many of each video, evenly spaced.
      lead: the real, or a fake alone, and its outcome, to which frames are added.
      fakes: the fakes and their outcomes.
    """
    video, outcome = lead
    own, masks = crops(video)
    wanted: set[int] = set()
    for fake, found in fakes:
        theirs, their_masks = crops(fake)
        shared = sorted(own.keys() & theirs.keys())
        paired = bool(shared) and _alike(own, theirs, shared)
        chosen = _spaced(shared if paired else theirs.keys(), frames)
        if paired:
            found.skipped += Counter(no_such_frame_in_real=len(theirs) - len(shared))
            wanted.update(chosen)
        else:
            found.remarks["unpaired_unlike_real"] += 1
        for number in chosen:
            real = crop_path(video, number, own[number].suffix) if paired else ""
            _add(out, fake, found, number, theirs, their_masks, real)
        _failed_if_empty(fake, found)
    have = {frame.number for frame in outcome.frames}
    for number in sorted((wanted or set(_spaced(own.keys(), frames))) - have):
        _add(out, video, outcome, number, own, masks, "")
    outcome.frames.sort()
    _failed_if_empty(video, outcome)


def _alike(real: Mapping[int, Path], fake: Mapping[int, Path], shared: Sequence[int]) -> bool:
    looked_at = [shared[i] for i in evenly_spaced(len(shared), _LOOKED_AT)]
    alike = 0
    for number in looked_at:
        a, b = read_picture(real[number]), read_picture(fake[number])
        alike += a is not None and b is not None and onto_real(b, a) is not None
    return 2 * alike > len(looked_at)


def _spaced(numbers: Collection[int], frames: int) -> list[int]:
    ordered = sorted(numbers)
    return [ordered[i] for i in evenly_spaced(len(ordered), frames)] if ordered else []


def _add(
    out: Path,
    video: Video,
    outcome: Outcome,
    number: int,
    files: Mapping[int, Path],
    masks: Mapping[int, Path],
    real: str,
) -> None:
    source = files[number]
    path = crop_path(video, number, source.suffix)
    _link(source, inside(out, path))
    points = next((at for at in landmark_paths(source) if at.is_file()), None)
    if points:
        _link(points, inside(out, f"{folder_of(video, 'landmarks')}/{number:03d}.npy"))
    mask = ""
    if number in masks:
        mask = f"{folder_of(video, 'masks')}/{number:03d}{masks[number].suffix}"
        _link(masks[number], inside(out, mask))
    outcome.frames.append(Frame(number, path, real, mask))


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


def _failed_if_empty(video: Video, outcome: Outcome) -> None:
    if not outcome.frames:
        outcome.failed = f"no_frames: {video.path} holds no pictures"
