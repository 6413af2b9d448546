"""Celeb-DF v1 and v2 (Li et al., CVPR 2020) and Celeb-DF++ (Li et al. 2025).

License and access: https://github.com/yuezunli/celeb-deepfakeforensics (v1, v2) and
https://github.com/OUC-VAS/Celeb-DF-PP (++); terms of use, research only.

Layout, the videos in these folders or in `videos` within them, or DeepfakeBench's crops in `frames`:

    Celeb-real/idA_NNNN.mp4
    YouTube-real/NNNNN.mp4
    Celeb-synthesis/idA_idB_NNNN.mp4            (v1, v2)
    Celeb-synthesis/<scenario>/<method>/*.mp4   (++: FaceSwap, FaceReenact, TalkingFace)
    List_of_testing_videos.txt

The fake `idA_idB_NNNN` shows idB's face on the video `idA_NNNN`. Fakes of ++ that are not face swaps
move otherwise than any video of the set, so they have no real.

Split: the listed videos are `test`, all others `train`; the set has no validation list. (In
DeepfakeBench's JSON the test videos are in `train` too.)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from data_pipeline.core.frame_numbers import entries
from data_pipeline.datasets import base
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_text


@dataclass(frozen=True)
class Version:
    """One of the three sets: its name, the start of its labels, and how much it holds."""

    dataset: str
    label: str
    real: int
    fake: int


V1: Final = Version("Celeb-DF-v1", "CelebDFv1", 408, 795)
V2: Final = Version("Celeb-DF-v2", "CelebDFv2", 890, 5639)
PLUS_PLUS: Final = Version("Celeb-DF++", "CelebDFv3", 890, 53196)

_REALS: Final = ("Celeb-real", "YouTube-real")
_FAKES: Final = "Celeb-synthesis"
_LIST: Final = "List_of_testing_videos.txt"
#: `id0_id1_0002` -> `id0_0002`.
real_of: Final = base.real_name(r"(id\d+)_id\d+_(\d+)", r"\1_\2")
#: The scenario of ++ whose fakes keep the frames of a video of the set.
_SWAPS: Final = "FaceSwap"


def scan(root: Path, version: Version) -> base.Collection:
    """Finds the videos of one version; raises UserError where `root` or its list is wrong."""
    base.require_folder(root, version.dataset, _FAKES, *_REALS)
    tested = _read_list(root)
    videos = list(base.scan_layout(root, version.dataset, _layout(root, version)))
    if tested is not None:
        videos = [
            replace(v, split="test" if f"{v.group}/{v.name}" in tested else "train") for v in videos
        ]
    notes = []
    if tested is None:
        notes.append(
            f"no test list: {root / _LIST} is missing, so the split stays empty; "
            "it comes with the data set"
        )
    elif absent := len(tested - {f"{video.group}/{video.name}" for video in videos}):
        notes.append(f"{absent} of the {len(tested)} videos of {_LIST} are not there")
    counts = {(version.dataset, base.REAL_METHOD): version.real}
    if version is not PLUS_PLUS:  # its paper gives no counts by method that add up to the whole
        counts[version.dataset, _FAKES] = version.fake
    return base.collect(videos, counts, notes=notes)


def _layout(root: Path, version: Version) -> Iterator[base.LayoutFolder]:
    for folder in _REALS:
        yield base.LayoutFolder(folder, f"{version.label}_real")
    fake = f"{version.label}_fake"
    if base.media(root / _FAKES):
        # The folders of ++ would look like folders of frames only within `frames` or `images`.
        yield base.LayoutFolder(_FAKES, fake, "", _FAKES, _REALS[0], real_of)
        return
    for scenario in entries(root / _FAKES):
        for method in entries(scenario):
            reals = _REALS[0] if scenario.name == _SWAPS else ""
            group = f"{_FAKES}/{scenario.name}/{method.name}"
            yield base.LayoutFolder(group, fake, "", method.name, reals, real_of)


def _read_list(root: Path) -> set[str] | None:
    """The test videos as `<group>/<name>`; None where there is no list."""
    path = root / _LIST
    if not path.is_file():
        return None
    tested = set()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        label, _, video = line.strip().partition(" ")
        group, _, name = video.strip().replace("\\", "/").rpartition("/")
        # In this list, 1 is real.
        if label not in ("0", "1") or group.startswith(_FAKES) != (label == "0") or not name:
            raise UserError(
                f"{path}, line {number}: '{line.strip()}' is not '1 <real video>' or "
                "'0 <synthetic video>'; take the list that comes with the data set"
            )
        tested.add(f"{group}/{Path(name).stem}")
    return tested
