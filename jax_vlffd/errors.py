"""The exception for users' mistakes, and text that is safe to print."""

from __future__ import annotations


class UserError(Exception):
    """A mistake in the user's input: the message names the file or record and what to do."""


def fault(error: BaseException) -> str:
    """One line about an unexpected error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def printable(text: str) -> str:
    """Untrusted text without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
