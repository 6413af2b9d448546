"""The Deepfake Detection Challenge, DFDC (Dolhansky et al. 2020), and its preview, DFDCP (2019).

License and access: https://ai.meta.com/datasets/dfdc/ (terms of use).

Layout of DFDC, in `train` or at the root for the parts:

    train/dfdc_train_part_N/{metadata.json,*.mp4}   label REAL or FAKE, `original` of a fake
    validation/{labels.csv or metadata.json,*.mp4}
    test/{labels.csv or metadata.json,*.mp4}         `filename,label` or `is_fake`, no originals

Layout of DFDCP: `dataset.json` (path -> label, set) beside `original_videos/T/T_X_NNN.mp4` and
`method_A/T/T_X/S_T_X_NNN.mp4`, `method_B/...`: the fake S_T_X_NNN was made from T_X_NNN.

The videos may lie in `videos` within each of these, or DeepfakeBench's crops in `frames`.

Split: DFDC's own folders. DFDCP's `set` (train, test); videos that the JSON does not name are left
out. 'DFDC' and 'DFDCP' are different sets with different published numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from data_pipeline.core.frame_numbers import VIDEO_SUFFIXES, entries, files_below
from data_pipeline.core.tables import read_json, read_rows, split_name
from data_pipeline.datasets import base
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import FAKE

FULL: Final = "DFDC"
PREVIEW: Final = "DFDCP"
#: The only method that DFDC names.
_FAKE_METHOD: Final = "DFDC"

_PREVIEW_METHODS: Final = {"method_A": "DFDCP_FakeA", "method_B": "DFDCP_FakeB"}
#: `S_T_X_NNN` -> `T_X_NNN`.
_preview_real: Final = base.real_name(r"\d+_(\d+_[A-Za-z]+_.+)", r"\1")


def scan(root: Path) -> base.Collection:
    """Finds the videos of DFDC; raises UserError where `root` is something else or a label is wrong."""
    base.require_folder(root, FULL)
    videos = []
    left_out: Counter[str] = Counter()
    for group, split in _parts(root):
        layout = [base.LayoutFolder(group, "DFDC_Real", split)]
        videos_there = list(base.scan_layout(root, FULL, layout))
        labels = _labels(root / group) if videos_there else {}
        for video in videos_there:
            label, original = labels.get(video.name, (None, ""))
            if label is None:
                left_out["without a label in metadata.json or labels.csv"] += 1
                continue
            if label == FAKE:
                real = f"{FULL}/{group}/{original}" if original else ""
                video = replace(
                    video, label=FAKE, method=_FAKE_METHOD, bench_label="DFDC_Fake", real=real
                )
            videos.append(video)
    if not videos:
        raise UserError(
            f"--root={root} has no labeled videos of DFDC: expected train/dfdc_train_part_N/, "
            "validation/ or test/ with metadata.json or labels.csv"
        )
    counts = {(FULL, base.REAL_METHOD): 23654, (FULL, _FAKE_METHOD): 104500}
    return base.collect(videos, counts, left_out)


def scan_preview(root: Path) -> base.Collection:
    """Finds the videos of DFDCP; raises UserError where its JSON is missing or wrong."""
    base.require_folder(root, PREVIEW, "original_videos", *_PREVIEW_METHODS)
    records = read_json(root / "dataset.json")
    if not isinstance(records, dict):
        raise UserError(f"{root / 'dataset.json'} is not an object of path -> label and set")
    layout = [
        base.LayoutFolder("original_videos", "DFDCP_Real", items=_below),
        *(
            base.LayoutFolder(method, label, "", method, "original_videos", _preview_real, _below)
            for method, label in _PREVIEW_METHODS.items()
        ),
    ]
    there = {(video.group, video.name): video for video in base.scan_layout(root, PREVIEW, layout)}
    videos = []
    # The paper counts the reals alone; of the fakes the set's own list is what there should be.
    expected = Counter({(PREVIEW, base.REAL_METHOD): 1131})
    for place, record in records.items():
        group, name = place.replace("\\", "/").split("/")[0], Path(place).stem
        where = f"{root / 'dataset.json'}, '{place}'"
        if not isinstance(record, dict):
            raise UserError(f"{where}: is not an object with label and set")
        fake = base.read_label(record.get("label"), where) == FAKE
        split = split_name(str(record.get("set")))
        if split is None or fake != (group in _PREVIEW_METHODS):
            raise UserError(f"{where}: set or label does not fit; take the set's own dataset.json")
        if fake:
            expected[PREVIEW, group] += 1
        if video := there.pop((group, name), None):
            videos.append(replace(video, split=split))
    left_out = {"not named in dataset.json": len(there)} if there else {}
    absent = len(records) - len(videos)
    notes = [f"{absent} of the {len(records)} videos of dataset.json are not there"]
    return base.collect(videos, expected, left_out, notes if absent else ())


def _parts(root: Path) -> Iterator[tuple[str, str]]:
    """The folders with videos, and their splits."""
    for place in ("train", "."):
        for part in entries(root / place):
            if part.is_dir() and part.name.startswith("dfdc_train_part"):
                yield str(part.relative_to(root).as_posix()), "train"
    for name in ("train", "train_sample_videos", "validation", "test"):
        if (root / name).is_dir():
            yield name, name if name in ("validation", "test") else "train"


def _labels(folder: Path) -> dict[str, tuple[int, str]]:
    """Name -> (label, name of the original or "")."""
    if (table := folder / "labels.csv").is_file():
        rows = {row["filename"]: row for row in read_rows(table, "filename", "label")}
        records: dict[str, Any] = dict(rows)
    elif (table := folder / "metadata.json").is_file():
        records = read_json(table)
    else:
        return {}
    if not isinstance(records, dict) or not all(isinstance(r, dict) for r in records.values()):
        raise UserError(f"{table} is not an object of file name -> label")
    return {
        Path(name).stem: (
            base.read_label(record.get("label", record.get("is_fake")), f"{table}, '{name}'"),
            Path(str(record.get("original") or "")).stem,
        )
        for name, record in records.items()
    }


def _below(folder: Path) -> list[base.VideoEntry]:
    """Videos at any depth of a folder, of one name the last; else the crops in its `frames`."""
    files = sorted(p for p in files_below(folder) if p.suffix.lower() in VIDEO_SUFFIXES)
    by_name = {path.stem: base.VideoEntry(path.stem, path, False) for path in files}
    return list(by_name.values()) or base.media(folder)
