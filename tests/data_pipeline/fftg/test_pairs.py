"""Tables of pairs: reading and errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.fftg.annotator import Annotator
from data_pipeline.fftg.pairs import check_masks, read_pairs
from jax_vlffd.errors import UserError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("real,method\na.png,x\n", "column 'fake' is missing"),
        ("real,fake\n", "has no rows"),
        ("", "column 'real' is missing"),
        ("real,fake,caption\na,b,c\n", "column 'caption'"),
        ("real,fake,provenance\na,b,c\n", "column 'provenance'"),
        ("real,fake,refinement\na,b,c\n", "column 'refinement'"),
        (b"real,fake\n\xff\xfe,b\n", "not text in UTF-8"),
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


def test_the_folder_for_masks_must_not_hold_inputs(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text("real,fake\nreals/a.png,crops/fakes/a.png\n")
    tasks = read_pairs(table)
    check_masks(tmp_path / "masks", tasks)
    (tmp_path / "link").symlink_to(tmp_path / "crops")
    for folder in (tmp_path, tmp_path / "crops", tmp_path / "link", tmp_path / "x" / ".."):
        with pytest.raises(UserError, match="name a folder for the masks alone"):
            check_masks(folder, tasks)


def test_windows_separators_a_bom_and_spaces_are_read(tmp_path: Path) -> None:
    table = tmp_path / "pairs.csv"
    table.write_bytes("\ufeffreal,fake,video\r\n a\\b.png , c\\d.png,v\r\n".encode())
    (task,) = read_pairs(table)
    assert task.real == tmp_path / "a" / "b.png"
    assert task.id == "c/d"
    assert task.columns == {"video": "v"}


@pytest.mark.parametrize("name", [".", "./", "..", "/", "a/.", "a/..", "", " . "])
def test_a_fake_that_is_a_folder_is_a_row_like_others(tmp_path: Path, name: str) -> None:
    table = tmp_path / "pairs.csv"
    table.write_text(f"real,fake\na.png,{name}\na.png,b.png\n")
    tasks = read_pairs(table)
    assert [bool(task.id) for task in tasks] == [True, True]
    line = Annotator(root=tmp_path).annotate(tasks[0])
    assert line is not None
    assert line["error"].split(":")[0] in ("missing_file", "unreadable_image", "path_outside")
