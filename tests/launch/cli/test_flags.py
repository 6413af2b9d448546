"""Flag values of several commands: NAME=PATH and i/n."""

from __future__ import annotations

import pytest

from jax_vlffd.errors import UserError
from launch.cli.flags import name_and_path, named_paths, shard


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a=b/c", ("a", "b/c")),
        ("a=b=c", ("a", "b=c")),
        ("set", ("", "set")),
        ("dir/a=b", ("", "dir/a=b")),
        ("a=./b/", ("a", "./b/")),  # a sweep compares it with the path recorded by the evaluation
        ("a=gs://bucket/set", ("a", "gs://bucket/set")),
        ("gs://bucket/seed=1", ("", "gs://bucket/seed=1")),
    ],
)
def test_a_name_ends_at_the_first_equals_sign(text: str, parts: tuple[str, str]) -> None:
    assert name_and_path(text, "--data") == parts


@pytest.mark.parametrize("texts", [["a="], ["=b"], [""], ["b"], ["a=b", "a=c"]])
def test_names_are_required_and_distinct(texts: list[str]) -> None:
    with pytest.raises(UserError, match=r"--data.*(write NAME=PATH|given twice)"):
        named_paths(texts, "--data")
    assert named_paths(["a=x", "b=y=z"], "--data") == {"a": "x", "b": "y=z"}


def test_shards_partition_the_items() -> None:
    items = list(range(10))
    assert [items[shard(f"{i}/3")] for i in range(3)] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("text", ["", "1", "2/2", "-1/2", "a/b", "0/0"])
def test_a_bad_shard_is_a_users_error(text: str) -> None:
    with pytest.raises(UserError, match="--shard"):
        shard(text)
