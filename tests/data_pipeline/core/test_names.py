"""No name that comes from a file leaves the output, and none is too long for it."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from data_pipeline.core.files import file_name, folder_aside, inside, new_folder
from jax_vlffd.errors import UserError
from jax_vlffd.file_writing import atomic_write_text
from tests.support import tiny
from tests.support.preparing import prepare
from tests.support.video_trees import clip, scene, write_picture, write_video

HOSTILE = (
    "../evil", "../../evil", "a/../../evil", "/tmp/evil", "..", ".", "", "a//b", "a\\..\\evil", "C:evil",
    "evil\0", "evil\nname", "evil\rname",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused_with_its_record(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"row 7: .*cannot be a name") as caught:
        inside(tmp_path, name, "row 7")
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["a", "a/b.png", "..a/b..", "http:/x", "面" * 80, "é", "a b'\"", "-x"]
)
def test_an_honest_name_stays(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


def test_a_link_that_leads_out_is_not_written_through(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "set").symlink_to(tmp_path)
    (out / "file.json").symlink_to(tmp_path / "other.json")
    for name in ("set/a", "file.json"):
        with pytest.raises(UserError, match="leads out of"):
            inside(out, name)
    (tmp_path / "linked").symlink_to(out)  # the user's own way to the output
    assert inside(tmp_path / "linked", "a/b") == tmp_path / "linked/a/b"


def test_long_and_strange_names_are_cut_by_bytes_and_separated(tmp_path: Path) -> None:
    for name in ("面" * 200, "x" * 300, os.fsdecode(b"caf\xe9"), os.fsdecode(b"\xff" * 250)):
        short, other = file_name(name), file_name(name + "y")
        assert short != other
        assert len(os.fsencode(short)) <= 240
        short.encode("utf-8")
        atomic_write_text(tmp_path / f"{short}.json", "{}")
    atomic_write_text(tmp_path / ("x" * 255), "as long as a name can be")


def command(dataset: str, root: Path, out: Path, *more: str) -> tuple[int, str]:
    done = tiny.command(
        "launch.prepare", f"--dataset={dataset}", f"--root={root}", f"--out={out}", "--workers=1",
        "--frames=2", *more,
    )  # fmt: skip
    return done.returncode, done.stderr


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("dataset", "label", "video"),
    [
        ("../stolen", "X_Real", "v"), ("/{tmp}/stolen", "X_Real", "v"), ("prepare", "X_Real", "v"),
        ("X", "../../stolen_Real", "v"), ("X", "X_Real", "../../../../stolen"),
        ("X", "X_Real", "{tmp}/stolen"), ("X", "X_Real", "..\\stolen"),
    ],
)  # fmt: skip
def test_names_in_a_json_do_not_leave_the_output(
    tmp_path: Path, dataset: str, label: str, video: str
) -> None:
    dataset, label, video = (s.replace("{tmp}", str(tmp_path)) for s in (dataset, label, video))
    root = tmp_path / "root"
    write_picture(root / "frames/v/000.png", scene(0, [(30, 20, 72)]))
    content = {
        dataset: {label: {"test": {video: {"label": label, "frames": ["frames/v/000.png"]}}}}
    }
    table = tmp_path / "set.json"
    table.write_text(json.dumps(content))
    before = tree(tmp_path)
    status, error = command("deepfakebench", root, tmp_path / "deep" / "out", f"--json={table}")
    assert (status, error.count("\n")) == (1, 1), error
    assert "rename it" in error
    assert tree(tmp_path) == before


def test_a_data_set_in_a_table_does_not_leave_the_output(tmp_path: Path) -> None:
    root = tmp_path / "root"
    write_video(root / "a.avi", clip(0, 5))
    (root / "pairs.csv").write_text("real,fake,dataset\na.avi,,../../stolen\n")
    before = tree(tmp_path)
    status, error = command("folder", root, tmp_path / "deep" / "out")
    assert (status, error.count("\n")) == (1, 1), error
    assert "'../../stolen' cannot be a name" in error
    assert tree(tmp_path) == before


def crops(root: Path) -> Path:
    """A prepared set of one real, as DeepfakeBench lays it out; its JSON."""
    for number in range(3):
        write_picture(root / f"X/real/frames/v/{number:03d}.png", scene(number, [(30, 20, 72)]))
    frames = [f"X/real/frames/v/{number:03d}.png" for number in range(3)]
    table = root / "X.json"
    table.write_text(
        json.dumps({"X": {"X_Real": {"test": {"v": {"label": "X_Real", "frames": frames}}}}})
    )
    return table


@pytest.mark.parametrize("out", ["root", ".", "root/X", "link"])
def test_an_output_that_holds_what_is_read_is_refused(tmp_path: Path, out: str) -> None:
    root = tmp_path / "root"
    table = crops(root)
    (tmp_path / "link").symlink_to(root)
    before = tree(tmp_path)
    status, error = command("deepfakebench", root, tmp_path / out, f"--json={table}")
    assert (status, error.count("\n")) == (1, 1), error
    assert "which is read: name a folder beside it" in error
    assert tree(tmp_path) == before


def test_pictures_that_are_links_into_the_output_are_refused(tmp_path: Path) -> None:
    table = crops(tmp_path / "root")
    kept = tmp_path / "out" / "kept.png"
    kept.parent.mkdir()
    picture = tmp_path / "root/X/real/frames/v/001.png"
    picture.rename(kept)
    picture.symlink_to(kept)
    before = tree(tmp_path)
    status, error = command("deepfakebench", tmp_path / "root", kept.parent, f"--json={table}")
    assert (status, error.count("\n")) == (1, 1), error
    assert tree(tmp_path) == before


def test_a_folder_is_not_prepared_into_itself(tmp_path: Path) -> None:
    write_video(tmp_path / "real/a.avi", clip(0, 5))
    before = tree(tmp_path)
    assert command("folder", tmp_path, tmp_path)[0] == 1
    assert tree(tmp_path) == before


def test_crops_that_lie_at_their_own_target_stay(tmp_path: Path) -> None:
    from data_pipeline.preparation.existing_crops import _link

    source = write_picture(tmp_path / "a.png", scene(0, [(30, 20, 72)]))
    content = source.read_bytes()
    _link(source, source)
    _link(source, tmp_path / "b.png")
    _link(source, tmp_path / "b.png")
    assert source.read_bytes() == (tmp_path / "b.png").read_bytes() == content
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


def test_long_names_and_names_that_are_not_utf8_are_prepared(tmp_path: Path, out: Path) -> None:
    from data_pipeline.datasets import PLAIN

    root = tmp_path / "set"
    names = ("面" * 80, "x" * 251, os.fsdecode(b"caf\xe9"))
    video = write_video(tmp_path / "a.avi", clip(0, 5)).read_bytes()
    for name in names:
        (root / "real").mkdir(parents=True, exist_ok=True)
        (root / "real" / f"{name}.avi").write_bytes(video)
    method = root / "fake" / os.fsdecode(b"m\xe9thode")  # a folder's name is a method
    method.mkdir(parents=True)
    (method / "other.avi").write_bytes(video)
    outcomes, rows = prepare(PLAIN["folder"](root), out)
    assert {outcome.failed for outcome in outcomes.values()} == {""}
    assert len(rows) == 16
    assert all((out / (row["real"] or row["fake"])).is_file() for row in rows)
    with (out / "pairs.csv").open(encoding="utf-8", newline="") as file:
        assert len({row["video"] for row in csv.DictReader(file)}) == 4


def test_what_a_kill_left_of_a_folder_goes_and_what_was_to_be_replaced_comes_back(
    tmp_path: Path,
) -> None:
    out = tmp_path / "set"
    left = tmp_path / ".set.partial-abcdefgh"
    for name in ("new", "old"):
        (left / name).mkdir(parents=True)
        (left / name / "file").write_text(name)
    users = tmp_path / ".set.mine"
    users.mkdir()
    with new_folder(out) as first:
        assert (out / "file").read_text() == "old"
        with folder_aside(out) as second:  # another process's, still at work
            assert first.is_dir()
            assert second.is_dir()
        assert set(os.listdir(tmp_path)) == {"set", ".set.mine", first.parent.name}
        (out / "file").unlink()
        (first / "file").write_text("new")
    assert (out / "file").read_text() == "new"
    assert set(os.listdir(tmp_path)) == {"set", ".set.mine"}


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / ("x" * 255)) as aside:
        (aside / "a").touch()
    shutil.rmtree(tmp_path / "deep" / ("x" * 255))
    out = tmp_path / "deep" / "set"

    def begin() -> None:
        with new_folder(out) as aside:
            (aside / "half").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert os.listdir(out.parent) == []
    out.mkdir()
    with new_folder(out) as aside:
        (aside / "a").write_text("x")
        assert not list(out.iterdir())
    assert os.listdir(out.parent) == ["set"]
    assert (out / "a").read_text() == "x"
    assert out.stat().st_mode == out.parent.stat().st_mode
    with pytest.raises(UserError, match=r"set cannot be written .*not empty"), new_folder(out):
        pass
    assert os.listdir(out.parent) == ["set"]
    assert (out / "a").read_text() == "x"
