"""Files that a user hands in: what is found, what is read, and what is refused before it does harm."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.core import discovery
from data_pipeline.core.images import InputError, read_picture
from jax_vlffd.errors import UserError
from jax_vlffd.preprocessing import as_rgb
from tests.support.packed_sets import draw

SIDE = 40


def save(path: Path, image: PIL.Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def picture(mode: str = "RGB") -> PIL.Image.Image:
    return PIL.Image.fromarray(draw(3, SIDE)).convert(mode)


# --- what is found ---


def test_folders_globs_and_files_are_found_once_and_in_order(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "b/deep/3.mp4", "b/notes.txt", "a.jpg", "strange.bin"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/loop").symlink_to(tmp_path / "b")
    given = [str(tmp_path / text) for text in ("strange.bin", "b", "*.jpg", "b/1.JPG", "gone.png")]
    result = [str(path.relative_to(tmp_path)) for path in discovery.find_files(given)]
    assert result == ["strange.bin", "b/1.JPG", "b/2.png", "b/deep/3.mp4", "a.jpg", "gone.png"]


def test_a_name_with_the_signs_of_a_glob_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].png").touch()
    (tmp_path / "a1.png").touch()
    assert discovery.find_files([str(tmp_path / "a[1].png")]) == [tmp_path / "a[1].png"]


def test_a_list_names_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("\ufeffone.png\n\n  two/b.mp4 \n/abs.png\n", "utf-8")
    result = discovery.read_list(tmp_path / "list.txt")
    assert result == [tmp_path / "one.png", tmp_path / "two/b.mp4", Path("/abs.png")]


def test_empty_folders_globs_and_lists_are_reported(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "list.txt").write_text("\n")
    with pytest.raises(UserError, match="no pictures or videos"):
        discovery.find_files([str(tmp_path / "empty")])
    with pytest.raises(UserError, match="nothing matches"):
        discovery.find_files([str(tmp_path / "*.png")])
    with pytest.raises(UserError, match="names no file"):
        discovery.read_list(tmp_path / "list.txt")
    with pytest.raises(UserError, match="cannot be read"):
        discovery.read_list(tmp_path / "empty")


# --- what is read ---


@pytest.mark.parametrize(
    ("mode", "suffix", "note"),
    [
        ("RGB", ".png", None), ("L", ".png", "gray"), ("RGBA", ".png", "transparent"),
        ("CMYK", ".jpg", "cmyk"), ("I;16", ".png", "deep"), ("P", ".png", None),
        ("1", ".png", "gray"), ("RGB", ".webp", None), ("RGB", ".bmp", None),
        ("RGB", ".tif", None), ("CMYK", ".tif", "cmyk"), ("P", ".gif", None),
    ],
)  # fmt: skip
def test_every_kind_comes_as_rgb(tmp_path: Path, mode: str, suffix: str, note: str | None) -> None:
    options = (
        {"lossless": True} if suffix == ".webp" else {"quality": 100} if suffix == ".jpg" else {}
    )
    if mode == "I;16":
        deep = PIL.Image.fromarray(draw(3, SIDE)[..., 0].astype(np.uint16) * 257)
        result = read_picture(save(tmp_path / f"a{suffix}", deep))
        expected = draw(3, SIDE)[..., [0, 0, 0]]
    else:
        result = read_picture(save(tmp_path / f"a{suffix}", picture(mode), **options))
        expected = np.asarray(picture(mode).convert("RGB"))
    assert (result.image.shape, result.image.dtype) == ((SIDE, SIDE, 3), np.uint8)
    assert np.abs(result.image.astype(int) - expected).mean() < 3
    assert [text.split(":")[0] for text in result.notes] == ([note] if note else [])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".tif", ".webp", ".png"])
def test_exif_turns_pictures_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    upright = PIL.Image.new("RGB", (40, 24), "black")
    upright.paste("white", (0, 0, 8, 24))  # the left edge is bright
    undo = {
        1: None, 2: PIL.Image.Transpose.FLIP_LEFT_RIGHT, 3: PIL.Image.Transpose.ROTATE_180,
        4: PIL.Image.Transpose.FLIP_TOP_BOTTOM, 5: PIL.Image.Transpose.TRANSPOSE,
        6: PIL.Image.Transpose.ROTATE_90, 7: PIL.Image.Transpose.TRANSVERSE,
        8: PIL.Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = upright if undo is None else upright.transpose(undo)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    result = read_picture(save(tmp_path / f"a{suffix}", stored, exif=exif))
    assert result.image.shape == (24, 40, 3)
    assert result.image[:, :7].mean() > 200 > 50 > result.image[:, 9:].mean()
    assert any("rotated" in note for note in result.notes) == (orientation != 1)


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_of_an_animation_the_first_frame_is_read(tmp_path: Path, suffix: str) -> None:
    frames = [PIL.Image.new("RGB", (30, 20), color) for color in ("red", "blue", "lime")]
    path = save(
        tmp_path / f"a{suffix}", frames[0], save_all=True, append_images=frames[1:], duration=50
    )
    result = read_picture(path)
    assert result.image.shape == (20, 30, 3)
    assert np.abs(result.image.mean((0, 1)) - [255, 0, 0]).max() < 12
    assert any(note.startswith("animated: only the first of 3") for note in result.notes)


def test_exif_facts_are_kept_short_and_as_text(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x010F], exif[0x0131] = "<script>alert(1)</script>", "x" * 10_000
    exif.get_ifd(0x8825)[1] = "N"
    result = read_picture(save(tmp_path / "a.jpg", picture(), exif=exif))
    assert result.exif["Make"] == "<script>alert(1)</script>"
    assert result.exif["Software"] == "x" * 200
    assert result.exif["GPS"] == "present"


# --- what is refused ---


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG whose header states a size, with whatever pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg(tmp_path: Path, width: int, height: int) -> bytes:
    """A JPEG whose header was changed to state another size."""
    data = save(tmp_path / "plain.jpg", picture()).read_bytes()
    return data.replace(struct.pack(">HH", SIDE, SIDE), struct.pack(">HH", height, width), 1)


# Pillow warns from 89 megapixels on; 120 are read.
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    bombs = {
        "png": png(60_000, 60_000, zlib.compress(bytes(10_000_000), 9)),  # 10 MB in 10 kB
        "wide.png": png(2**31 - 1, 1),
        "jpg": jpeg(tmp_path, 65_000, 65_000),
        "large.png": png(12_000, 10_001, zlib.compress(b"", 9)),
    }
    for name, data in bombs.items():
        path = tmp_path / f"bomb.{name}"
        path.write_bytes(data)
        with pytest.raises(InputError) as caught:
            read_picture(path)
        assert caught.value.code == "too_large", name


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.jpg", picture()).read_bytes()
    broken = save(tmp_path / "a.png", picture()).read_bytes()
    small = b"ihdr" + struct.pack(">II", SIDE // 4, SIDE // 4)  # its pixels say otherwise
    lying = save(tmp_path / "a.jp2", picture()).read_bytes()
    lying = lying.replace(b"ihdr" + struct.pack(">II", SIDE, SIDE), small)
    files = {
        "lying.jp2": lying,
        "empty.jpg": b"", "text.png": b"no picture" * 99, "cut.jpg": whole[: len(whole) // 2],
        "cut.png": broken[: len(broken) // 2], "header.png": png(30, 30), "svg.png": b"<svg/>",
        "program.eps": save(tmp_path / "a.eps", picture()).read_bytes(),  # a program for a printer
        "icon.ico": save(tmp_path / "a.ico", picture()).read_bytes(),
        "cut.gif": save(tmp_path / "a.gif", picture("P")).read_bytes()[:60],
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError) as caught:
            read_picture(tmp_path / name)
        assert caught.value.code == "unreadable", name
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        read_picture(tmp_path / "gone.jpg")
    assert caught.value.code == "missing_file"


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    for path in (tmp_path / "pipe.jpg", Path("/dev/zero"), tmp_path):
        with pytest.raises(InputError, match=r"not a regular file|directory"):
            discovery.sha256(path)


def test_a_video_is_reported_by_its_suffix_or_its_content(tmp_path: Path) -> None:
    save(tmp_path / "photo.bin", picture(), format="PNG")
    (tmp_path / "clip.bin").write_bytes(b"\x00\x00\x00\x18ftypmp42")
    assert not discovery.is_video(tmp_path / "photo.bin")
    assert discovery.is_video(tmp_path / "clip.bin")
    assert discovery.is_video(tmp_path / "a.MP4")
    assert not discovery.is_video(tmp_path / "a.jpeg")


# --- what is converted, or noted ---


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize(
    ("kind", "white", "suffix"),
    [
        (np.uint16, 65535, ".png"), (np.uint16, 65535, ".tif"), (np.uint16, 65535, ".pgm"),
        (np.int32, 255, ".tif"), (np.int32, 65535, ".tif"), (np.int32, 2**31 - 1, ".tif"),
        (np.float32, 1, ".tif"), (np.float32, 255, ".tif"), (np.float32, 65535, ".tif"),
    ],
)  # fmt: skip
def test_pictures_of_more_than_8_bits_are_scaled(
    tmp_path: Path, kind: type, white: int, suffix: str, gray: bool
) -> None:
    ramp = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)
    stored = (ramp * white * (0.5 if white == 2**31 - 1 else 1)).astype(kind)
    if suffix == ".pgm":
        header = f"P5 {SIDE} {SIDE} 65535\n".encode()
        (tmp_path / "a.pgm").write_bytes(header + stored.astype(">u2").tobytes())
    else:
        save(tmp_path / f"a{suffix}", PIL.Image.fromarray(stored))
    result = read_picture(tmp_path / f"a{suffix}", gray=gray)
    expected = 255 * stored.astype(float) / (2**32 - 1 if white == 2**31 - 1 else white)
    actual = result.image if gray else result.image[..., 1]
    assert np.abs(actual - expected).max() <= 1
    assert any(note.startswith("deep:") for note in result.notes)
    with PIL.Image.open(tmp_path / f"a{suffix}") as opened:  # as the library takes it
        np.testing.assert_allclose(as_rgb(opened)[..., 1], expected, atol=1)


def test_what_is_not_a_number_is_black(tmp_path: Path) -> None:
    values = np.full((SIDE, SIDE), 0.5, np.float32)
    values[0, :3] = [np.nan, np.inf, -np.inf]
    result = read_picture(save(tmp_path / "a.tif", PIL.Image.fromarray(values))).image
    assert result[0, :3].max() == 0
    assert set(result[1:].ravel()) == {128}


def as_jpeg(size: int = 96, **options: object) -> bytes:
    file = io.BytesIO()
    noisy = np.random.default_rng(0).integers(0, 255, (size, size, 3)).astype(np.uint8)
    PIL.Image.fromarray(noisy).save(file, "JPEG", **options)
    return file.getvalue()


WAYS = ({}, {"progressive": True}, {"restart_marker_blocks": 4}, {"optimize": True})
BEHIND = {
    "nothing": b"", "zeros": bytes(99), "a picture": as_jpeg(16),
    "a video": b"\0\0\0\x18ftypmp42" + b"\xff\xda\xff\xd9\0\1" * 99,
}  # fmt: skip


def codes(path: Path) -> list[str]:
    return [note.partition(":")[0] for note in read_picture(path).notes]


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("behind", BEHIND)
def test_what_lies_behind_a_jpeg_is_not_part_of_it(
    tmp_path: Path, options: dict[str, object], behind: str
) -> None:
    (tmp_path / "a.jpg").write_bytes(as_jpeg(**options) + BEHIND[behind])
    assert codes(tmp_path / "a.jpg") == (["motion"] if behind == "a video" else [])


@settings(max_examples=20)
@given(st.sampled_from(WAYS), st.floats(0.3, 0.95), st.sampled_from([b"", b"\xff\xd9", b"whole"]))
def test_a_jpeg_that_is_cut_is_refused_or_noted(
    tmp_path_factory: pytest.TempPathFactory, options: dict[str, object], share: float, end: bytes
) -> None:
    whole = as_jpeg(**options)
    path = tmp_path_factory.mktemp("cut") / "a.jpg"
    cut = whole[: int(len(whole) * share)].rstrip(b"\xff")
    path.write_bytes(cut + (whole if end == b"whole" else end))
    if end == b"\xff\xd9":
        assert codes(path) == ["cut"]
    else:
        with pytest.raises(InputError, match="the JPEG is cut off"):
            read_picture(path)


def profile(swapped: bool) -> bytes:
    """A color profile as sRGB's, of another name; perhaps with red and green for one another."""
    data = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    data = data.replace("sRGB".encode("utf-16-be"), "other".encode("utf-16-be")[:8])
    if swapped:
        for kind in (b"XYZ", b"TRC"):
            data = data.replace(b"r" + kind, b"?" + kind).replace(b"g" + kind, b"r" + kind)
            data = data.replace(b"?" + kind, b"g" + kind)
    return data


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_a_color_profile_is_applied(tmp_path: Path, suffix: str) -> None:
    red = PIL.Image.new("RGB", (SIDE, SIDE), (240, 30, 30))
    options = {"quality": 100} if suffix in (".jpg", ".webp") else {}
    for swapped, color in ((False, (240, 30, 30)), (True, (30, 240, 30))):
        path = save(tmp_path / f"a{suffix}", red, icc_profile=profile(swapped), **options)
        result = read_picture(path)
        assert np.abs(result.image.mean((0, 1)) - color).max() < 4
        (note,) = result.notes
        assert note.startswith("profile: converted to sRGB from othe")
    srgb = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    assert codes(save(tmp_path / f"a{suffix}", red, icc_profile=srgb, **options)) == []
    for damaged in (b"x", srgb[:200], srgb[:128] + b"\xff" * 90):
        assert codes(save(tmp_path / f"a{suffix}", red, icc_profile=damaged, **options)) == [
            "profile"
        ]


def test_files_that_are_passed_over_are_counted_by_suffix(tmp_path: Path) -> None:
    read = ("a.jfif", "a.jpe", "a.jp2", "a.MTS", "a.ts", "a.flv", "a.wmv", "a.3gp")
    beside = ("._a.png", ".DS_Store", "__MACOSX/a.png", "Thumbs.db")
    for name in (*read, *beside, "b/c.heic", "c.HEIC", "notes.txt", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    ignored: Counter[str] = Counter()
    paths = discovery.find_files([str(tmp_path)], ignored)
    assert [path.name for path in paths] == sorted(read)
    assert ignored == {".heic": 2, ".txt": 1, "": 1}


def test_a_line_of_a_list_is_a_path_and_not_a_glob(tmp_path: Path) -> None:
    (tmp_path / "a1.png").touch()
    (tmp_path / "list.txt").write_text("a[1].png\n*.png\n")
    paths = discovery.find_files(discovery.read_list(tmp_path / "list.txt"))
    assert [path.name for path in paths] == ["a[1].png", "*.png"]
