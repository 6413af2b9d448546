"""`launch.annotate`, `launch.calibrate_fftg` and `launch.bench` as a user calls them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from data_pipeline import forge
from data_pipeline.drawn_faces import draw_face
from data_pipeline.drawn_geometry import draw_identity
from data_pipeline.errors import UserError
from data_pipeline.fftg import annotate
from data_pipeline.fftg.lines import LineWriter, read_lines
from data_pipeline.fftg.pairs import read_pairs
from data_pipeline.fftg.regions import region_maps
from data_pipeline.fftg.run import annotate_all, shard
from jax_vlffd.vocabulary import REGIONS, TYPES, VERDICTS, regions_named

REPOSITORY = Path(__file__).resolve().parent.parent
SIZE = 160


def run(module: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def write(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    code = cv2.COLOR_RGB2BGR if image.ndim == 3 and image.shape[2] == 3 else None
    assert cv2.imwrite(str(path), image if code is None else cv2.cvtColor(image, code))
    return path


def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(number)
    return draw_face(draw_identity(rng), rng, SIZE)


def make_pairs(folder: Path, count: int, extra: tuple[str, ...] = ()) -> Path:
    """A table of drawn pairs with landmarks beside them; pair i has region i of 4 forged."""
    rows = []
    for number in range(count):
        image, points = draw(number)
        region = REGIONS[number % 4]
        chosen = region_maps(points, SIZE, SIZE)[region]
        fake = forge.plant(image, chosen, "color", 1.0, np.random.default_rng(number))
        write(folder / "real" / f"{number}.png", image)
        write(folder / "fake" / f"{number}.png", fake)
        np.save(folder / "real" / f"{number}.npy", points)
        rows.append({"real": f"real/{number}.png", "fake": f"fake/{number}.png", "method": region})
    return write_table(folder / "pairs.csv", rows)


def write_table(path: Path, rows: list[dict[str, Any]]) -> Path:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def annotate_rows(table: Path, out: Path, *arguments: str, check: bool = True):
    done = run(
        "launch.annotate",
        f"--pairs={table}",
        f"--out={out}",
        "--workers=1",
        *arguments,
        check=check,
    )
    lines = {line["id"]: line for line in read_lines(out)} if out.exists() else {}
    return done, lines


def test_every_line_keeps_the_contract(tmp_path: Path) -> None:
    table = make_pairs(tmp_path, 8)
    done, lines = annotate_rows(table, tmp_path / "out.jsonl", f"--masks={tmp_path / 'masks'}")
    assert "8 rows: 8 annotated" in done.stdout
    assert list(lines) == [f"fake/{number}" for number in range(8)]
    for number, line in enumerate(lines.values()):
        region = REGIONS[number % 4]
        assert line["error"] is None
        assert line["label"] == 1
        assert line["source"] == "raw"
        assert line["method"] == region
        assert line["real"] == f"real/{number}.png"
        assert list(line["regions"]) == list(REGIONS)
        flagged = {name for name, found in line["regions"].items() if found["forged"]}
        assert flagged == {region}
        found = line["regions"][region]
        assert "color" in found["types"]
        assert set(found["evidence"]) == {"mask", *TYPES}
        for figures in found["evidence"].values():
            assert figures["margin"] == pytest.approx(
                figures["score"] - figures["threshold"], abs=2e-3
            )
        assert line["caption"] == line["raw_caption"]
        assert line["caption_key"].startswith(f"fake:{region}=")
        for text in (line["caption"], *line["captions"]):
            assert regions_named(text) == flagged
            assert VERDICTS[1] in text
        for text in line["real_captions"]:
            assert VERDICTS[0] in text
        mask = cv2.imread(str(tmp_path / line["mask"]), cv2.IMREAD_GRAYSCALE)
        assert mask.shape == (SIZE, SIZE)
        assert mask.max() > 0


def test_a_second_run_does_only_what_changed(tmp_path: Path) -> None:
    table, out = make_pairs(tmp_path, 4), tmp_path / "out.jsonl"
    annotate_rows(table, out)
    first = out.read_bytes()
    done, _ = annotate_rows(table, out)
    assert "0 annotated, 4 already done" in done.stdout
    assert out.read_bytes() == first
    image = cv2.imread(str(tmp_path / "fake/2.png"))
    cv2.imwrite(str(tmp_path / "fake/2.png"), 255 - image)
    done, lines = annotate_rows(table, out)
    assert "3 already done" in done.stdout
    assert len(out.read_bytes().splitlines()) == 4
    assert lines["fake/2"]["error"].startswith("not_a_pair")


def test_shards_and_workers_make_the_same_lines(tmp_path: Path) -> None:
    table = make_pairs(tmp_path, 7)
    _, whole = annotate_rows(table, tmp_path / "whole.jsonl")
    parts: dict[str, Any] = {}
    for index in range(3):
        _, part = annotate_rows(table, tmp_path / f"{index}.jsonl", f"--shard={index}/3")
        assert not parts.keys() & part.keys()
        parts |= part
    assert parts == whole
    run("launch.annotate", f"--pairs={table}", f"--out={tmp_path / 'two.jsonl'}", "--workers=2")
    assert {line["id"]: line for line in read_lines(tmp_path / "two.jsonl")} == whole


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "0/0"])
def test_a_bad_shard_is_a_users_error(text: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        shard(text)


def test_a_real_image_alone_is_captioned_too(tmp_path: Path) -> None:
    make_pairs(tmp_path, 1)
    table = write_table(tmp_path / "reals.csv", [{"real": "real/0.png", "fake": ""}])
    _, lines = annotate_rows(table, tmp_path / "out.jsonl")
    line = lines["real/0"]
    assert line["label"] == 0
    assert line["fake"] is None
    assert line["caption_key"] == "real"
    assert VERDICTS[0] in line["caption"]
    assert not any(found["forged"] for found in line["regions"].values())


def test_an_unedited_fake_says_so(tmp_path: Path) -> None:
    make_pairs(tmp_path, 1)
    table = write_table(tmp_path / "p.csv", [{"real": "real/0.png", "fake": "real/0.png"}])
    done, lines = annotate_rows(table, tmp_path / "out.jsonl")
    (line,) = lines.values()
    assert line["caption_key"] == "fake:none"
    assert regions_named(line["caption"]) == frozenset()
    assert "1 fakes without visible forgery" in done.stdout


def test_bad_input_is_told_line_by_line_and_the_others_go_on(tmp_path: Path) -> None:
    make_pairs(tmp_path, 3)
    image, points = draw(0)
    fake = cv2.cvtColor(cv2.imread(str(tmp_path / "fake/0.png")), cv2.COLOR_BGR2RGB)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").write_bytes(b"")
    cut = (tmp_path / "fake/0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(cut[: len(cut) // 3])
    write(tmp_path / "small.png", fake[:, :80])
    write(tmp_path / "blank.png", np.full((SIZE, SIZE, 3), 128, np.uint8))
    write(tmp_path / "tiny.png", image)
    np.save(tmp_path / "tiny.npy", 100 + 0.05 * points)
    write(tmp_path / "points.png", image)
    np.save(tmp_path / "points.npy", points[:5])
    write(tmp_path / "beside.png", image)
    np.save(tmp_path / "beside.npy", points + SIZE)
    write(tmp_path / "mask.png", np.zeros((9, 9), np.uint8))
    cv2.imwrite(str(tmp_path / "whole.jpg"), fake)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-900])
    (tmp_path.parent / "outside.png").write_bytes(cut)
    rows = [
        {"id": "good", "real": "real/0.png", "fake": "fake/0.png"},
        {"id": "missing_file", "real": "real/0.png", "fake": "gone.png"},
        {"id": "unreadable_image", "real": "real/0.png", "fake": "text.png"},
        {"id": "unreadable_image 2", "real": "real/0.png", "fake": "empty.png"},
        {"id": "unreadable_image 3", "real": "real/0.png", "fake": "cut.png"},
        {"id": "unreadable_image 4", "real": "real/0.png", "fake": "cut.jpg"},
        {"id": "missing_file 2", "real": "real/0.png", "fake": "real"},
        {"id": "size_mismatch", "real": "real/0.png", "fake": "small.png"},
        {"id": "not_a_pair", "real": "real/0.png", "fake": "fake/1.png"},
        {"id": "tiny_face", "real": "tiny.png", "fake": "fake/0.png"},
        {"id": "bad_landmarks", "real": "points.png", "fake": "fake/0.png"},
        {"id": "bad_landmarks 2", "real": "beside.png", "fake": "fake/0.png"},
        {"id": "bad_mask", "real": "real/0.png", "fake": "fake/0.png", "mask": "mask.png"},
        {"id": "path_outside", "real": "real/0.png", "fake": "../outside.png"},
        {"id": "path_outside 2", "real": "/etc/hostname", "fake": "fake/0.png"},
        {"id": "path_outside 3", "real": "real/0.png", "fake": "a\0.png"},
        {"id": "missing_value", "real": "", "fake": ""},
        {"id": "good", "real": "real/1.png", "fake": "fake/1.png"},
        {"id": "last", "real": "real/2.png", "fake": "fake/2.png"},
    ]
    done, lines = annotate_rows(write_table(tmp_path / "bad.csv", rows), tmp_path / "out.jsonl")
    assert len(lines) == len(rows)
    for name, line in lines.items():
        if name in ("good", "last"):
            assert line["error"] is None
            assert line["caption"]
            continue
        code = "duplicate_id" if name == "good#row19" else name.split(" ")[0]
        assert line["error"].startswith(code + ": "), (name, line["error"])
        assert line["caption"] == ""
        assert code in done.stdout
    assert "2 annotated" in done.stdout
    assert f"{len(rows) - 2} failed" in done.stdout


def test_masks_of_strange_ids_stay_in_their_folder_and_apart(tmp_path: Path) -> None:
    make_pairs(tmp_path, 1)
    ids = ("../../up", "up", "a/../up", "x" * 400, "/", "a/b")
    rows = [{"id": name, "real": "real/0.png", "fake": "fake/0.png"} for name in ids]
    table, masks = write_table(tmp_path / "p.csv", rows), tmp_path / "masks"
    _, lines = annotate_rows(table, tmp_path / "out.jsonl", f"--masks={masks}")
    paths = {(tmp_path / line["mask"]).resolve() for line in lines.values()}
    assert len(paths) == len(ids)
    assert all(path.is_file() and path.is_relative_to(masks) for path in paths)
    assert masks / "a" / "b.png" in paths


def test_moved_pictures_get_new_lines(tmp_path: Path) -> None:
    table, out = make_pairs(tmp_path / "a", 1), tmp_path / "out.jsonl"
    annotate_rows(table, out)
    (tmp_path / "a").rename(tmp_path / "b")
    _, lines = annotate_rows(tmp_path / "b" / table.name, out)
    assert [line["fake"] for line in lines.values()] == ["b/fake/0.png"]


def test_a_full_disk_ends_the_run_with_one_line() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    writer = LineWriter.__new__(LineWriter)
    writer.keys, writer._stale, writer._path = {}, False, Path("/dev/full")
    with (
        open("/dev/full", "wb", buffering=0) as writer._file,
        pytest.raises(UserError, match="No space"),
    ):
        writer.write({"id": "a"})


@pytest.mark.parametrize("detected", [False, True])
def test_pictures_without_a_face_are_told(tmp_path: Path, detected: bool) -> None:
    pytest.importorskip("dlib")
    blank = np.full((SIZE, SIZE, 3), 128, np.uint8)
    write(tmp_path / "a.png", blank)
    write(tmp_path / "b.png", blank)
    rows = [{"real": "a.png", "fake": "b.png" if detected else ""}]
    table = write_table(tmp_path / "p.csv", rows)
    done, lines = annotate_rows(table, tmp_path / "out.jsonl", check=False)
    assert done.returncode == 1
    assert "nothing could be annotated" in done.stderr
    assert next(iter(lines.values()))["error"].startswith("no_face")


def test_uncommon_pictures_are_annotated_with_a_remark(tmp_path: Path) -> None:
    make_pairs(tmp_path, 2)
    pair = [cv2.imread(str(tmp_path / kind / "0.png")) for kind in ("real", "fake")]
    points = np.load(tmp_path / "real/0.npy")
    for name in ("grey", "deep", "alpha", "turned", "half"):
        np.save(tmp_path / f"{name}_real.npy", points)
    for image, kind in zip(pair, ("real", "fake"), strict=True):
        cv2.imwrite(str(tmp_path / f"grey_{kind}.png"), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        cv2.imwrite(str(tmp_path / f"deep_{kind}.png"), image.astype(np.uint16) * 257)
        cv2.imwrite(str(tmp_path / f"alpha_{kind}.png"), cv2.cvtColor(image, cv2.COLOR_BGR2BGRA))
        turned = PIL.Image.fromarray(np.rot90(image[..., ::-1]).copy())
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        turned.save(tmp_path / f"turned_{kind}.jpg", quality=97, exif=exif)
    cv2.imwrite(str(tmp_path / "half_real.png"), pair[0])
    rows = [
        {"id": f"{name}_image", "real": f"{name}_real.{end}", "fake": f"{name}_fake.{end}"}
        for name, end in (("grey", "png"), ("deep", "png"), ("alpha", "png"), ("turned", "jpg"))
    ]
    rows.append({"id": "mixed", "real": "half_real.png", "fake": "grey_fake.png"})
    _, lines = annotate_rows(write_table(tmp_path / "odd.csv", rows), tmp_path / "out.jsonl")
    assert lines["mixed"]["error"].startswith("grey_image: one of the pair")
    assert lines["mixed"]["caption"] == ""
    for name in ("grey", "deep", "alpha", "turned"):
        line = lines[f"{name}_image"]
        code = "rotated_image" if name == "turned" else f"{name}_image"
        assert line["error"].startswith(code + ": "), line["error"]
        assert line["caption"]
        if name != "grey":  # of a change of color, grey shows only the lightness
            assert line["regions"]["mouth"]["forged"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("real,method\na.png,x\n", "column 'fake' is missing"),
        ("real,fake\n", "has no rows"),
        ("", "column 'real' is missing"),
        ("real,fake,caption\na,b,c\n", "column 'caption'"),
        (b"real,fake\n\xff\xfe,b\n", "no CSV in UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_table_ends_the_run(
    tmp_path: Path, content: str | bytes | None, message: str
) -> None:
    table = tmp_path / "pairs.csv"
    if content is not None:
        table.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read_pairs(table)


def test_a_wrong_table_gives_one_line_and_status_1(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("real,method\na.png,x\n")
    done, _ = annotate_rows(table, tmp_path / "out.jsonl", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1


def test_windows_separators_a_bom_and_spaces_are_read(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_bytes("\ufeffreal,fake,video\r\n a\\b.png , c\\d.png,v\r\n".encode())
    (job,) = read_pairs(table)
    assert job.real == tmp_path / "a" / "b.png"
    assert job.id == "c/d"
    assert job.columns == {"video": "v"}


def test_a_killed_run_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    table, out = make_pairs(tmp_path, 40), tmp_path / "out.jsonl"
    command = [
        sys.executable,
        "-m",
        "launch.annotate",
        f"--pairs={table}",
        f"--out={out}",
        "--workers=1",
    ]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    while not (out.exists() and out.stat().st_size > 8000) and process.poll() is None:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = len(read_lines(out))
    with out.open("ab") as file:
        file.write(b'{"id": "torn", "real": "')
    done, lines = annotate_rows(table, out)
    assert f"{written} already done" in done.stdout
    assert len(lines) == 40
    assert len(out.read_bytes().splitlines()) == 40


def test_two_writers_of_one_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with LineWriter(path), pytest.raises(UserError, match="another process"):
        LineWriter(path)
    with LineWriter(path):
        pass
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl"]


def test_a_damaged_line_inside_the_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text('{"id": "a"}\nnonsense\n{"id": "b"}\n')
    with pytest.raises(UserError, match="line 2"):
        read_lines(path)
    path.write_text('{"id": "a", "n": 1}\n{"id": "a", "n": 2}\n{"id": "b"')
    assert read_lines(path) == [{"id": "a", "n": 2}]


def test_no_detector_and_no_landmarks_ends_the_run_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(name: str) -> None:
        raise UserError("run: pip install 'jax-vlffd[faces]'")

    monkeypatch.setattr(annotate, "open_finder", refuse)
    table = make_pairs(tmp_path, 1)
    (tmp_path / "real/0.npy").unlink()
    jobs = read_pairs(table)
    with pytest.raises(UserError, match="pip install"):
        list(annotate_all(annotate.Annotator(), jobs, {}, 1))


@pytest.mark.parametrize("count", [68, 81])
def test_stored_landmarks_are_used_and_no_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def refuse(name: str) -> None:
        raise AssertionError("a detector was opened")

    monkeypatch.setattr(annotate, "open_finder", refuse)
    image, points = draw(0)
    brows, tip = points[17:27].mean(axis=0), points[30]
    forehead = brows + 0.9 * (brows - tip) + np.linspace((-30, 9), (30, 9), 13)
    fake = forge.plant(
        image, region_maps(points, SIZE, SIZE)["nose"], "color", 1.0, np.random.default_rng(0)
    )
    real = write(tmp_path / "youtube" / "frames" / "000" / "0.png", image)
    other = write(tmp_path / "Deepfakes" / "frames" / "000_003" / "0.png", fake)
    stored = tmp_path / "youtube" / "landmarks" / "000" / "0.npy"
    stored.parent.mkdir(parents=True)
    np.save(stored, np.concatenate([points, forehead])[:count])
    line = annotate.Annotator().annotate(annotate.Job("x", real, other))
    assert line is not None
    assert [name for name, found in line["regions"].items() if found["forged"]] == ["nose"]


def test_of_several_faces_the_forged_one_is_judged(tmp_path: Path, shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    from data_pipeline.faces import open_finder

    path = shared_dir / "data" / "landmark_faces" / "2008_002079.jpg"
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    found = open_finder("dlib").find(image)
    assert len(found) >= 4
    for index in (1, 3):
        maps = region_maps(found[index].landmarks, *image.shape[:2])
        fake = forge.plant(image, maps["nose"], "color", 1.0, np.random.default_rng(0))
        real = write(tmp_path / f"{index}_real.png", image)
        other = write(tmp_path / f"{index}_fake.png", fake)
        line = annotate.Annotator().annotate(annotate.Job("x", real, other))
        assert line is not None
        assert line["regions"]["nose"]["forged"], index


def test_neural_textures_change_mouths_and_leave_eyes(shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    from data_pipeline.faces import open_finder

    root = shared_dir / "data" / "FaceForensics++"
    finder = open_finder("dlib")
    visible = mouths = eyes = total = 0
    for name in ("253_183", "183_253"):
        captures = [
            cv2.VideoCapture(str(root / part / "c40" / "videos" / f"{video}.mp4"))
            for part, video in (
                ("original_sequences/youtube", name[:3]),
                ("manipulated_sequences/NeuralTextures", name),
            )
        ]
        for number in range(150):
            frames = [capture.read()[1] for capture in captures]
            if number % 15:
                continue
            real, fake = (cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) for frame in frames)
            points = finder.find(real)[0].landmarks
            findings, pair = annotate.annotate_pair(real, fake, points)
            change = cv2.absdiff(pair.real, pair.fake).mean(axis=2)
            shown = change[pair.labels == 1].mean() > 1.5 * change[pair.labels == 3].mean()
            visible += shown
            mouths += bool(shown and findings["mouth"].forged)
            eyes += findings["eyes"].forged
            total += 1
    assert visible >= 10
    assert mouths >= 0.95 * visible
    assert eyes <= 0.05 * total


def test_regions_of_edited_faces_are_identified(tmp_path: Path, shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    table = shared_dir / "data" / "edited_faces" / "pairs.csv"
    out = tmp_path / "out.jsonl"
    annotate_rows(table, out)
    report = tmp_path / "report.json"
    run("launch.score_annotations", f"--annotations={out}", f"--truth={table}", f"--out={report}")
    figures = json.loads(report.read_text())
    assert figures["images"] == 25
    assert figures["refused"] == 0
    for kind in ("flags", "words"):
        assert figures[kind]["micro"]["f1"] >= 0.97
        assert figures[kind]["exact"] >= 0.92
    assert figures["words_match_flags"]["match"] == 1.0


def test_calibration_writes_its_report(tmp_path: Path, shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    faces = shared_dir / "data" / "edited_faces" / "real"
    report = tmp_path / "report.md"
    done = run(
        "launch.calibrate_fftg", f"--faces={faces}", f"--heldout={faces}", "--plants=50",
        f"--report={report}",
    )  # fmt: skip
    assert "macro F1" in done.stdout
    text = report.read_text()
    assert "| structure |" in text
    for plot in tmp_path.glob("*.svg"):
        assert plot.name in text
        assert plot.read_text().startswith("<svg")
    assert len(list(tmp_path.glob("*.svg"))) == len(TYPES) + 1


def test_the_bench_reports_both_sides(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    out = tmp_path / "bench.json"
    run("launch.bench", "fftg", "--pairs=4", "--rounds=1", f"--out={out}")
    figures = json.loads(out.read_text())
    assert figures["annotated"] == 4
    assert figures["ratio"] > 5
    done = run("launch.bench", "nothing", check=False)
    assert done.returncode == 1
    assert "fftg" in done.stderr


@pytest.mark.parametrize("module", ["annotate", "score_annotations", "calibrate_fftg", "bench"])
def test_help_is_quick(module: str) -> None:
    start = time.perf_counter()
    done = run(f"launch.{module}", "--help")
    assert "python -m launch." in done.stdout
    assert time.perf_counter() - start < 1.5
