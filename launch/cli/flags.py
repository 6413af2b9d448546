"""Parses what several commands take in a flag: NAME=PATH and i/n."""

from __future__ import annotations

from collections.abc import Iterable

from jax_vlffd.errors import UserError


def name_and_path(text: str, flag: str) -> tuple[str, str]:
    """Splits `[NAME=]PATH`; the name is empty where none is given.

    Raises:
      UserError: the name or the path is empty.
    """
    name, equals, path = text.partition("=")
    if not equals or "/" in name:  # a path may hold an equals sign
        return "", _given(text, text, flag)
    _given(name, text, flag)
    return name, _given(path, text, flag)


def _given(part: str, text: str, flag: str) -> str:
    if not part:
        raise UserError(f"{flag}={text}: write NAME=PATH")
    return part


def named_paths(texts: Iterable[str], flag: str) -> dict[str, str]:
    """The paths of several `NAME=PATH` by name, in order.

    Raises:
      UserError: a name is missing or given twice.
    """
    paths: dict[str, str] = {}
    for text in texts:
        name, path = name_and_path(text, flag)
        _given(name, text, flag)
        if name in paths:
            raise UserError(
                f"{flag}: the name {name!r} is given twice; give the second another name"
            )
        paths[name] = path
    return paths


def shard(text: str) -> slice:
    """The items of shard `i/n` (i from 0): every n-th, beginning with the i-th.

    Raises:
      UserError: it is written otherwise.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return slice(int(index), None, int(count))
    raise UserError(f"--shard={text}: write i/n with i from 0 to n-1, such as 0/4")
