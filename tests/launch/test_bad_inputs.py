"""Drawn bad inputs over all commands: a line or a count, never a traceback, a hang or a half file."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import bad_inputs, processes, tiny
from tests.support.bad_inputs import Case
from tests.support.commands import Kit

#: Of 300 bad inputs those that are pictures and videos, many of them given to one command.
PICTURES, VIDEOS = 60, 30
#: Suffixes that `launch.predict` may pass over in a folder.
OTHERS = {".ppm", ".jp2", ".avif", ".gif"}
#: Seconds after which a command hangs; nothing here takes ten on a machine of its own.
TIMEOUT = 240.0


def run(case: Case, cwd: Path) -> tuple[int, str, str]:
    try:
        done = processes.run(
            f"launch.{case.command}", case.arguments, tiny.environment(), cwd, TIMEOUT
        )
    except AssertionError:
        return -1, "", "it hangs"
    return done.returncode, done.stdout, done.stderr


def fault(case: Case, place: Path, status: int, error: str) -> str:
    """What is wrong with how a command ended; '' where nothing is."""
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    half = [
        str(path) for path in place.rglob("*")
        if path.name.startswith(".new.") or ".partial-" in path.name or not _is_whole(path)
    ]  # fmt: skip
    if "Traceback" in error or "Exception ignored" in error or status not in (0, 1, 2, 3):
        why = f"status {status}: {error[-1500:]}"
    elif status in (1, 2) and (len(lines) != 1 or error.splitlines()[-1] != lines[0]):
        why = f"status {status} with {len(lines)} lines of error: {error[-600:]}"
    elif not error.isascii() and any(not c.isprintable() and c != "\n" for c in error):
        why = f"control characters: {error!r}"
    elif half:
        why = f"half files: {half}"
    else:
        return ""
    return f"{case.command} {case.arguments}\n    of {case.title[:300]!r}\n    {why}"


def _is_whole(path: Path) -> bool:
    """Whether an output is not cut off."""
    if "out" not in path.parts or path.suffix != ".jsonl" or not path.is_file():
        return True
    text = path.read_text()
    try:
        return not text or (text.endswith("\n") and all(map(json.loads, text.splitlines())))
    except ValueError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(
    "count", [24, pytest.param(300 - PICTURES - VIDEOS, marks=pytest.mark.campaign)]
)
def test_a_bad_file_flag_or_setting_is_one_line(
    kit: Kit, tmp_path: Path, seed: int, count: int, record_property: Callable[[str, object], None]
) -> None:
    drawn = bad_inputs.Drawn(kit, tmp_path, seed)
    ends: Counter[str] = Counter()
    faults = []
    (tmp_path / "cwd").mkdir()
    for number in range(count):
        case = drawn.case(number)
        status, _, error = run(case, tmp_path / "cwd")  # where odd relative paths lead
        ends[f"status {status}"] += 1
        if why := fault(case, tmp_path / str(number), status, error):
            faults.append(f"{number}: {why}")
            print(faults[-1], flush=True)
    record_property("inputs", count)
    record_property("ends", dict(ends))
    assert not faults, "\n".join(faults)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pictures", "videos"),
    [(12, 5), pytest.param(PICTURES, VIDEOS, marks=pytest.mark.campaign)],
)
@pytest.mark.parametrize("command", ["predict", "annotate", "prepare"])
def test_a_broken_picture_or_video_is_counted_and_the_others_are_read(
    kit: Kit, tmp_path: Path, seed: int, command: str, pictures: int, videos: int,
    record_property: Callable[[str, object], None],
) -> None:  # fmt: skip
    pytest.importorskip("dlib")
    rng = bad_inputs.random.Random(seed)
    folder = tmp_path / "set"
    bad_inputs.pictures(folder / "fake/p", pictures, rng)
    bad_inputs.videos(folder / "fake", videos, rng) if command == "prepare" else None
    bad_inputs.videos(folder / "videos", videos, rng)
    sound = kit.pairs.parent / "real" / "0.png"
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    out = tmp_path / "out"
    if command == "predict":
        arguments = [
            f"--checkpoint={kit.workdir}",
            f"--out={out / 'p.jsonl'}",
            str(folder),
            str(sound),
        ]
    elif command == "annotate":
        for name in ("real", "fake"):
            shutil.copytree(kit.pairs.parent / name, tmp_path / name)
        names = [str(path.relative_to(tmp_path)) for path in files]
        rows = "".join(f"real/0.png,{name}\n" for name in [*names, "fake/0.png"])
        (tmp_path / "pairs.csv").write_text(f"real,fake\n{rows}")
        arguments = [f"--pairs={tmp_path / 'pairs.csv'}", f"--out={out / 'a.jsonl'}", "--workers=1"]
    else:
        (folder / "real").mkdir()
        (folder / "real/0.png").write_bytes(sound.read_bytes())
        arguments = ["--dataset=folder", f"--root={folder}", f"--out={out}", "--workers=1"]
    case = Case(command, "pictures and videos", arguments)
    status, said, error = run(case, tiny.ROOT)
    record_property("inputs", len(files))
    assert not (why := fault(case, tmp_path, status, error)), why
    assert status == 0, error
    if command == "predict":
        lines = [json.loads(line) for line in (out / "p.jsonl").read_text().splitlines()]
        named = {line["path"] for line in lines}
        assert {str(path) for path in (*files, sound) if path.suffix not in OTHERS} <= named
    elif command == "annotate":
        lines = [json.loads(line) for line in (out / "a.jsonl").read_text().splitlines()]
        assert len(lines) == len(files) + 1
        assert lines[-1]["error"] is None or lines[-1]["caption"]
    else:
        assert "real" in said
