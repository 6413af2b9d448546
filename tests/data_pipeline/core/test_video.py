"""Frames by their number, and what is said of videos that cannot be read."""

from __future__ import annotations

import http.server
import os
import struct
import threading
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.core.images import read_image
from data_pipeline.core.video import (
    MAX_PIXELS,
    VideoError,
    count_packets,
    evenly_spaced,
    open_frames,
)
from tests.support.video_trees import blank_frames, write_picture, write_timed, write_video


def gray_steps(count: int, size: tuple[int, int] = (96, 64)) -> list[np.ndarray]:
    """Frame i has the gray level 4 i, so that a frame read tells its number."""
    return [np.full((size[1], size[0], 3), 4 * i, np.uint8) for i in range(count)]


def number_of(frame: np.ndarray | None) -> int:
    assert frame is not None
    return round(float(frame.mean()) / 4)


@pytest.mark.parametrize(
    ("name", "code"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("b.avi", "XVID")]
)
def test_frame_i_is_the_ith_frame(tmp_path: Path, name: str, code: str) -> None:
    frames = open_frames(write_video(tmp_path / name, gray_steps(40), code))
    assert (frames.count, frames.lost_start) == (40, 0)
    for index in (0, 1, 17, 39):
        # The lossy P frames of MPEG-4 may hold a level back by one step.
        assert abs(number_of(frames.read(index)) - index) <= 1
    frames.close()


def test_mjpeg_frames_are_exact_to_the_number(tmp_path: Path) -> None:
    frames = open_frames(write_video(tmp_path / "a.avi", gray_steps(30)))
    assert [number_of(frames.read(i)) for i in (3, 4, 11, 29)] == [3, 4, 11, 29]
    assert frames.read(30) is None
    frames.close()


def test_colors_are_rgb(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 200
    frame = open_frames(write_video(tmp_path / "a.avi", [red])).read(0)
    assert frame is not None
    assert frame[..., 0].mean() > 150 > 60 > frame[..., 2].mean()
    picture = read_image(write_picture(tmp_path / "a.png", red))
    np.testing.assert_array_equal(picture, red)


def test_a_truncated_video_gives_the_frames_that_are_left(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", gray_steps(40))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = open_frames(path)
    got = [frames.read(i) is not None for i in range(frames.count)]
    frames.close()
    assert got[0]
    assert 5 < sum(got) < 40
    assert got == sorted(got, reverse=True)  # none after the first that is missing


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "unreadable_video"),
        (b"no video at all" * 40, "unreadable_video"),
        (b"faces/one.jpg\nfaces/two.jpg\n" * 40, "unreadable_video"),  # FFmpeg would draw the text
    ],
)
def test_what_is_no_video_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    path = tmp_path / "000.mp4"  # digits: other back ends would look for a sequence of pictures
    path.write_bytes(content)
    with pytest.raises(VideoError, match=code) as caught:
        open_frames(path)
    assert caught.value.code == code
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "code"),
    [("a.mp4", "mp4v"), ("a.mov", "mp4v"), ("a.avi", "MJPG"), ("a.mkv", "MJPG"), ("a.ts", "mp4v"),
     ("a.flv", "FLV1"), ("a.wmv", "WMV2")],
)  # fmt: skip
def test_every_usual_container_is_opened(tmp_path: Path, name: str, code: str) -> None:
    frames = open_frames(write_video(tmp_path / name, gray_steps(12), code))
    assert frames.count >= 11
    assert frames.read(0) is not None
    frames.close()


def test_a_play_list_is_not_followed(tmp_path: Path) -> None:
    write_video(tmp_path / "secret.ts", gray_steps(12), "mp4v")
    lists = {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "a.ffconcat": "ffconcat version 1.0\nfile secret.ts\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(VideoError, match="unreadable_video"):
            open_frames(tmp_path / name)


def test_a_video_cut_before_its_index_is_refused(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", gray_steps(20), "mp4v")
    path.write_bytes(path.read_bytes()[:-200])  # an MP4 says at its end where its frames are
    with pytest.raises(VideoError, match="unreadable_video"):
        open_frames(path)


def test_zero_frames_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no_frames"):
        open_frames(write_video(tmp_path / "none.avi", []))
    with pytest.raises(VideoError, match="missing_file"):
        open_frames(tmp_path / "absent.mp4")
    (tmp_path / "folder").mkdir()
    with pytest.raises(VideoError, match="no_frames"):
        open_frames(tmp_path / "folder")


def test_odd_sizes_are_read(tmp_path: Path) -> None:
    frames = open_frames(write_video(tmp_path / "odd.mp4", gray_steps(5, (127, 95)), "mp4v"))
    frame = frames.read(4)
    frames.close()
    assert frame is not None
    assert abs(frame.shape[0] - 95) <= 1  # the encoder may drop the odd row
    assert abs(frame.shape[1] - 127) <= 1


def test_rotated_metadata_turns_the_frames_upright(tmp_path: Path) -> None:
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48] = 200  # the left half is bright
    path = write_video(tmp_path / "a.mp4", [picture] * 5, "mp4v")
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd")
    matrix = at + 4 + (40 if data[at + 4] == 0 else 52)
    turn = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)  # by 90 degrees, clockwise
    data[matrix : matrix + 36] = struct.pack(">9i", *turn)
    path.write_bytes(data)
    frame = open_frames(path).read(2)
    assert frame is not None
    assert frame.shape == (96, 64, 3)
    assert frame[:40].mean() > 150 > 50 > frame[56:].mean()  # left has become the top


@pytest.mark.parametrize("kind", ["plain", "trimmed", "late", "variable", "cut"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.ts", "a.avi"])
def test_frames_are_counted_whatever_the_header_states(
    tmp_path: Path, name: str, kind: str
) -> None:
    start, slow = {"trimmed": (-0.8, 1), "late": (5.0, 1), "variable": (0.0, 5)}.get(kind, (0.0, 1))
    if name == "a.avi" and start:
        return  # it has no time stamps
    seconds = [start + i / 25 * (slow if i > 25 else 1) for i in range(40)]
    codec = {"a.webm": "libvpx", "a.mp4": "libx264"}.get(name, "mpeg4")
    path = write_timed(tmp_path / name, gray_steps(40), seconds, codec)
    if kind == "cut" and name != "a.mp4":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames = open_frames(path)
    read = [i for i in range(max(frames.count, 40)) if frames.read(i) is not None]
    frames.close()
    assert read == list(range(len(read)))
    # A packet that is cut in the middle may give a frame or not.
    assert len(read) <= count_packets(path) <= len(read) + (kind == "cut")
    assert read


@pytest.mark.parametrize("aspect", [Fraction(4, 3), Fraction(8, 9), Fraction(1), Fraction(9)])
def test_pixels_that_are_not_square_are_shown_as_they_look(
    tmp_path: Path, aspect: Fraction
) -> None:
    size = {Fraction(4, 3): (64, 128), Fraction(8, 9): (72, 96)}.get(aspect, (64, 96))
    for name, codec in (("a.mp4", "libx264"), ("a.mkv", "mpeg4")):
        path = write_timed(
            tmp_path / name, gray_steps(9), [i / 25 for i in range(9)], codec, sample_aspect_ratio=aspect
        )  # fmt: skip
        frame = open_frames(path).read(5)
        assert frame is not None
        assert frame.shape == (*size, 3)
        assert abs(number_of(frame) - 5) <= 1


def test_colors_of_hdr_are_noted(tmp_path: Path) -> None:
    for transfer in (1, 16, 18):
        path = write_timed(
            tmp_path / "a.mp4", gray_steps(5), [i / 25 for i in range(5)], "libx264", color_trc=transfer
        )  # fmt: skip
        assert open_frames(path).hdr == (transfer != 1)


def test_a_start_that_cannot_be_decoded_is_reported(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", gray_steps(30))
    blank_frames(path, {0, 1, 2})
    frames = open_frames(path)
    assert (frames.lost_start, frames.count) == (3, 27)
    assert [number_of(frames.read(i)) for i in (0, 26)] == [3, 29]
    frames.close()


def test_a_damaged_frame_does_not_shift_those_behind_it(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", gray_steps(30))
    blank_frames(path, {10, 11})
    frames = open_frames(path)
    assert (frames.lost_start, frames.count) == (0, 30)
    assert number_of(frames.read(9)) == 9
    assert frames.read(10) is None
    assert frames.read(11) is None
    assert [number_of(frames.read(i)) for i in (12, 29)] == [12, 29]
    frames.close()


def test_a_video_without_its_first_key_frame_starts_at_the_next(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.avi", gray_steps(60), "XVID")
    blank_frames(path, {0})
    frames = open_frames(path)
    assert frames.lost_start == 1
    assert frames.count == 59
    frames.close()


def test_a_header_of_absurd_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_video(tmp_path / "a.avi", gray_steps(3))
    monkeypatch.setattr("data_pipeline.core.video.MAX_PIXELS", 96 * 64 - 1)
    with pytest.raises(VideoError, match=r"too_large.*more than 6,143 pixels"):
        open_frames(path)
    assert MAX_PIXELS > 7680 * 4320


def test_pictures_are_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (10, 9, 2):
        write_picture(tmp_path / f"frame{number}.png", gray_steps(number + 1)[number])
    frames = open_frames(tmp_path)
    assert [number_of(frames.read(i)) for i in range(3)] == [2, 9, 10]
    assert frames.read(3) is None
    single = open_frames(tmp_path / "frame9.png")
    assert (single.count, number_of(single.read(0))) == (1, 9)


def test_damaged_pictures_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff no picture")
    assert read_image(tmp_path / "a.png") is None
    assert read_image(tmp_path / "b.jpg") is None
    assert read_image(tmp_path / "absent.png") is None


@given(count=st.integers(1, 3000), frames=st.integers(1, 64))
def test_frames_are_evenly_spaced(count: int, frames: int) -> None:
    indices = evenly_spaced(count, frames)
    assert len(indices) == min(count, frames)
    assert indices[0] == 0
    assert frames == 1 or indices[-1] == count - 1
    steps = np.diff(indices)
    assert steps.size == 0 or steps.max() - steps.min() <= 1


def test_a_name_is_never_taken_for_an_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.chdir(tmp_path)
    folder = Path(f"http:/127.0.0.1:{server.server_port}")
    folder.mkdir(parents=True)
    os.rename(write_video(tmp_path / "a.avi", gray_steps(12)), folder / "a.avi")
    frames = open_frames(folder / "a.avi")
    server.shutdown()
    assert (frames.count, asked) == (12, [])


@pytest.mark.parametrize(
    "text",
    [
        # With the mark of an AVI at its place.
        "#EXTM3U\nAVI \n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.ts\n#EXT-X-ENDLIST\n",
        "#EXTM3U\nAVI \n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{folder}/secret.ts\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.ts\n",
    ],
)
def test_a_play_list_in_disguise_opens_nothing(tmp_path: Path, text: str) -> None:
    write_video(tmp_path / "secret.ts", gray_steps(12), "mp4v")
    for name in ("a.avi", "a.mp4", "a.m3u8"):
        (tmp_path / name).write_text(text.replace("{folder}", str(tmp_path)))
        with pytest.raises(VideoError, match="unreadable_video"):
            open_frames(tmp_path / name)


def test_a_name_that_is_not_utf8_is_opened(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.avi")
    os.rename(write_video(tmp_path / "a.avi", gray_steps(12)), path)
    frames = open_frames(path)
    assert (frames.count, number_of(frames.read(11))) == (12, 11)
    frames.close()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match=r"unreadable_video.*not a regular file"):
        open_frames(tmp_path / "a.mp4")


@pytest.mark.slow
def test_frames_are_those_of_opencv(shared_dir: Path) -> None:
    folder = shared_dir / "data" / "FaceForensics++"
    for part in ("original_sequences/youtube/c40", "manipulated_sequences/FaceSwap/c40"):
        path = min((folder / part / "videos").glob("183*.mp4"))
        other, ours = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG), open_frames(path)
        assert ours.count == other.get(cv2.CAP_PROP_FRAME_COUNT)
        for index in range(40):
            theirs = cv2.cvtColor(other.read()[1], cv2.COLOR_BGR2RGB)
            np.testing.assert_array_equal(ours.read(index), theirs)
        ours.close()
