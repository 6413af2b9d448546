"""`launch.annotate` as a user calls it, and which face is annotated."""

from __future__ import annotations

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

from data_pipeline.faces.regions import region_maps
from data_pipeline.fftg import annotator
from data_pipeline.fftg.findings import annotate_pair
from data_pipeline.synthetic import forgeries
from jax_vlffd.jsonl import read_lines
from jax_vlffd.vocabulary import REGIONS, TYPES, VERDICTS, regions_named
from tests.support.drawn_pairs import (
    REPOSITORY,
    SIZE,
    annotate_rows,
    draw,
    make_pairs,
    run,
    write,
    write_table,
)


def test_every_line_has_the_documented_fields(tmp_path: Path) -> None:
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
        flagged = {name for name, fields in line["regions"].items() if fields["forged"]}
        assert flagged == {region}
        fields = line["regions"][region]
        assert "color" in fields["types"]
        assert set(fields["evidence"]) == {"mask", *TYPES}
        for figures in fields["evidence"].values():
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


def test_a_real_image_alone_is_captioned_too(tmp_path: Path) -> None:
    make_pairs(tmp_path, 1)
    table = write_table(tmp_path / "reals.csv", [{"real": "real/0.png", "fake": ""}])
    _, lines = annotate_rows(table, tmp_path / "out.jsonl")
    line = lines["real/0"]
    assert line["label"] == 0
    assert line["fake"] is None
    assert line["caption_key"] == "real"
    assert VERDICTS[0] in line["caption"]
    assert not any(region["forged"] for region in line["regions"].values())


def test_an_unedited_fake_says_so(tmp_path: Path) -> None:
    make_pairs(tmp_path, 1)
    table = write_table(tmp_path / "p.csv", [{"real": "real/0.png", "fake": "real/0.png"}])
    done, lines = annotate_rows(table, tmp_path / "out.jsonl")
    (line,) = lines.values()
    assert line["caption_key"] == "fake:none"
    assert regions_named(line["caption"]) == frozenset()
    assert "1 fakes without visible forgery" in done.stdout


def test_bad_rows_get_a_code_and_the_others_are_annotated(tmp_path: Path) -> None:
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
    bomb = bytearray((tmp_path / "whole.jpg").read_bytes())
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = b"\x4e\x20\x4e\x20"  # says 20,000 by 20,000
    (tmp_path / "bomb.jpg").write_bytes(bomb)
    (tmp_path.parent / "outside.png").write_bytes(cut)
    rows = [
        {"id": "good", "real": "real/0.png", "fake": "fake/0.png"},
        {"id": "missing_file", "real": "real/0.png", "fake": "gone.png"},
        {"id": "unreadable_image", "real": "real/0.png", "fake": "text.png"},
        {"id": "unreadable_image 2", "real": "real/0.png", "fake": "empty.png"},
        {"id": "unreadable_image 3", "real": "real/0.png", "fake": "cut.png"},
        {"id": "unreadable_image 4", "real": "real/0.png", "fake": "cut.jpg"},
        {"id": "unreadable_image 5", "real": "real/0.png", "fake": "bomb.jpg"},
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
        code = "duplicate_id" if name == "good#row20" else name.split(" ")[0]
        assert line["error"].startswith(code + ": "), (name, line["error"])
        assert line["caption"] == ""
        assert code in done.stdout
    assert "2 annotated" in done.stdout
    assert f"{len(rows) - 2} failed" in done.stdout


def test_masks_of_odd_ids_are_distinct_and_stay_in_their_folder(tmp_path: Path) -> None:
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


@pytest.mark.parametrize("detected", [False, True])
def test_images_without_a_face_are_reported(tmp_path: Path, detected: bool) -> None:
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
    assert "no_face 1" in done.stdout


def test_uncommon_pictures_are_annotated_with_a_remark(tmp_path: Path) -> None:
    make_pairs(tmp_path, 2)
    pair = [cv2.imread(str(tmp_path / kind / "0.png")) for kind in ("real", "fake")]
    points = np.load(tmp_path / "real/0.npy")
    for name in ("gray", "deep", "alpha", "turned", "half"):
        np.save(tmp_path / f"{name}_real.npy", points)
    for image, kind in zip(pair, ("real", "fake"), strict=True):
        cv2.imwrite(str(tmp_path / f"gray_{kind}.png"), cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        cv2.imwrite(str(tmp_path / f"deep_{kind}.png"), image.astype(np.uint16) * 257)
        cv2.imwrite(str(tmp_path / f"alpha_{kind}.png"), cv2.cvtColor(image, cv2.COLOR_BGR2BGRA))
        turned = PIL.Image.fromarray(np.rot90(image[..., ::-1]).copy())
        exif = PIL.Image.Exif()
        exif[0x0112] = 6
        turned.save(tmp_path / f"turned_{kind}.jpg", quality=97, exif=exif)
    cv2.imwrite(str(tmp_path / "half_real.png"), pair[0])
    rows = [
        {"id": f"{name}_image", "real": f"{name}_real.{end}", "fake": f"{name}_fake.{end}"}
        for name, end in (("gray", "png"), ("deep", "png"), ("alpha", "png"), ("turned", "jpg"))
    ]
    rows.append({"id": "mixed", "real": "half_real.png", "fake": "gray_fake.png"})
    for kind, image in zip(("real", "fake"), pair, strict=True):
        gray = PIL.Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
        gray.save(tmp_path / f"print_{kind}.jpg", quality=97)
    np.save(tmp_path / "print_real.npy", points)
    rows.append({"id": "print", "real": "print_real.jpg", "fake": "print_fake.jpg"})
    table = write_table(tmp_path / "odd.csv", rows)
    done, lines = annotate_rows(table, tmp_path / "out.jsonl")
    assert lines["print"]["error"].startswith("gray_image: ")
    assert lines["print"]["caption"]
    for summed in ("gray_image 3", "deep_image 1", "alpha_image 1", "rotated_image 1"):
        assert summed in done.stdout
    assert lines["mixed"]["error"].startswith("gray_image: one image of the pair")
    assert lines["mixed"]["caption"] == ""
    for name in ("gray", "deep", "alpha", "turned"):
        line = lines[f"{name}_image"]
        code = "rotated_image" if name == "turned" else f"{name}_image"
        assert line["error"].startswith(code + ": "), line["error"]
        assert line["caption"]
        if name != "gray":  # of a change of color, gray shows only the lightness
            assert line["regions"]["mouth"]["forged"]


def test_a_wrong_table_gives_one_line_and_status_1(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("real,method\na.png,x\n")
    done, _ = annotate_rows(table, tmp_path / "out.jsonl", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "column 'fake' is missing" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_killed_run_loses_nothing_and_resumes(tmp_path: Path) -> None:
    table, out = make_pairs(tmp_path, 40), tmp_path / "out.jsonl"
    flags = (f"--pairs={table}", f"--out={out}", "--workers=1")
    command = [sys.executable, "-m", "launch.annotate", *flags]
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


@pytest.mark.parametrize("count", [68, 81])
def test_stored_landmarks_are_used_and_no_detector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def refuse(name: str) -> None:
        raise AssertionError("a detector was opened")

    monkeypatch.setattr(annotator, "open_detector", refuse)
    image, points = draw(0)
    brows, tip = points[17:27].mean(axis=0), points[30]
    forehead = brows + 0.9 * (brows - tip) + np.linspace((-30, 9), (30, 9), 13)
    fake = forgeries.plant(
        image, region_maps(points, SIZE, SIZE)["nose"], "color", 1.0, np.random.default_rng(0)
    )
    real = write(tmp_path / "youtube" / "frames" / "000" / "0.png", image)
    other = write(tmp_path / "Deepfakes" / "frames" / "000_003" / "0.png", fake)
    stored = tmp_path / "youtube" / "landmarks" / "000" / "0.npy"
    stored.parent.mkdir(parents=True)
    np.save(stored, np.concatenate([points, forehead])[:count])
    line = annotator.Annotator().annotate(annotator.AnnotationTask("x", real, other))
    assert line is not None
    assert [name for name, region in line["regions"].items() if region["forged"]] == ["nose"]


@pytest.mark.slow
def test_of_several_faces_the_forged_one_is_annotated(tmp_path: Path, shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    from data_pipeline.faces.detection import open_detector

    path = shared_dir / "data" / "landmark_faces" / "2008_002079.jpg"
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    faces = open_detector("dlib").detect(image)
    assert len(faces) >= 4
    for index in (1, 3):
        maps = region_maps(faces[index].landmarks, *image.shape[:2])
        fake = forgeries.plant(image, maps["nose"], "color", 1.0, np.random.default_rng(0))
        real = write(tmp_path / f"{index}_real.png", image)
        other = write(tmp_path / f"{index}_fake.png", fake)
        line = annotator.Annotator().annotate(annotator.AnnotationTask("x", real, other))
        assert line is not None
        assert line["regions"]["nose"]["forged"], index


@pytest.mark.slow
def test_neural_textures_change_mouths_and_leave_eyes(shared_dir: Path) -> None:
    pytest.importorskip("dlib")
    from data_pipeline.faces.detection import open_detector

    root = shared_dir / "data" / "FaceForensics++"
    face_detector = open_detector("dlib")
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
            points = face_detector.detect(real)[0].landmarks
            findings, pair = annotate_pair(real, fake, points)
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


@pytest.mark.parametrize("module", ["annotate", "score_annotations", "calibrate_fftg", "bench"])
def test_help_shows_the_command(module: str) -> None:
    done = run(f"launch.{module}", "--help")
    assert "python -m launch." in done.stdout
