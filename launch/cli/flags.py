"""Parses flag values of several commands: NAME=PATH and i/n."""

from __future__ import annotations

from collections.abc import Iterable

from jax_vlffd.errors import UserError


def name_and_path(text: str, flag: str) -> tuple[str, str]:
    """Splits `[NAME=]PATH`; the name is empty if there is none.

    Raises:
      UserError: the name or the path is empty.
    """
    name, equals, path = text.partition("=")
    named = equals and "/" not in name  # a path may contain an equals sign
    if not text or (named and not (name and path)):
        raise UserError(f"{flag}={text}: write NAME=PATH")
    return (name, path) if named else ("", text)


def named_paths(texts: Iterable[str], flag: str) -> dict[str, str]:
    """Parses several `NAME=PATH` into a dict, in order.

    Raises:
      UserError: a name is missing or repeated.
    """
    paths: dict[str, str] = {}
    for text in texts:
        name, path = name_and_path(text, flag)
        if not name:
            raise UserError(f"{flag}={text}: write NAME=PATH")
        if name in paths:
            raise UserError(
                f"{flag}: the name {name!r} is given twice; give the second another name"
            )
        paths[name] = path
    return paths


def shard(text: str) -> slice:
    """The slice of shard `i/n` (i from 0): every n-th item, starting with the i-th.

    Raises:
      UserError: the text has another form.
    """
    index, _, count = text.partition("/")
    if index.isdecimal() and count.isdecimal() and int(index) < int(count):
        return slice(int(index), None, int(count))
    raise UserError(f"--shard={text}: write i/n with i from 0 to n-1, such as 0/4")
