"""The one exception that is meant for the user's eyes, and text that is safe to show."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input: the message names the file or record and what to do."""


def fault(error: BaseException) -> str:
    """One line on an error that nobody foresaw."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def printable(text: str) -> str:
    """Text of others' making without what could command a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
