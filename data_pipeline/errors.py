"""The one exception that is meant for the user's eyes, and text that is safe to show."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input: the message names the file or record and what to do."""


def printable(text: str) -> str:
    """Text of others' making without what could command a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
