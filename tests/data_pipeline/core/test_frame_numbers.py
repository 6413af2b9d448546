"""Frame numbers and ranks of faces from file names."""

from __future__ import annotations

import pytest

from data_pipeline.core.frame_numbers import face_keys, natural


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["000.png", "007.png"], [(0, 0), (7, 0)]),
        (["img2_009.png", "img2_010.png"], [(9, 0), (10, 0)]),
        (["000012_0.png", "000013_0.png"], [(12, 0), (13, 0)]),
        (["frame_12_face_0.png", "frame_13_face_0.png"], [(12, 0), (13, 0)]),
        (["183_017.png", "183_018.png"], [(17, 0), (18, 0)]),
        (["012.png", "012_1.png", "017.png", "017_1.png"], [(12, 0), (12, 1), (17, 0), (17, 1)]),
        (["012.png", "017_1.png"], [(12, 0), (17, 0)]),
        (["012_1.png"], [(12, 0)]),
        (["0_0.png", "0_1.png", "1_0.png"], [(0, 0), (0, 1), (1, 0)]),
        (["1_9.png", "1_10.png"], [(9, 0), (10, 0)]),
    ],
)
def test_the_number_that_differs_is_the_frame(
    names: list[str], expected: list[tuple[int, int]]
) -> None:
    assert sorted(names, key=natural) == names
    result = face_keys(names)
    assert result.by_name
    assert result.keys == expected


@pytest.mark.parametrize(
    "names", [["a.png", "b.png"], ["7.png", "cover.png"], ["a1.png", "b1.png"]]
)
def test_positions_where_names_tell_nothing(names: list[str]) -> None:
    result = face_keys(names)
    assert not result.by_name
    assert result.keys == [(i, 0) for i in range(len(names))]


def test_long_and_odd_digits_are_no_error() -> None:
    assert face_keys(["9" * 200, "²", "٣"]).keys
