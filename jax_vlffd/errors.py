"""The exception for users' mistakes, and text that is safe to print."""

from __future__ import annotations

import re
from html import escape
from typing import Final

#: Longest text from a file in Markdown, in letters.
_MAX_MARKDOWN: Final = 200


class UserError(Exception):
    """A mistake in the user's input: the message names the file or record and what to do."""


def fault(error: BaseException) -> str:
    """One line about an unexpected error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def printable(text: str) -> str:
    """Untrusted text without the control characters that a terminal would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def plain_markdown(text: str) -> str:
    """Untrusted text for Markdown: one line, bounded, without active Markdown, HTML or terminal codes."""
    text = " ".join(text[: 4 * _MAX_MARKDOWN].split())
    text = "".join(mark for mark in text if mark.isprintable())
    if len(text) > _MAX_MARKDOWN:
        text = text[:_MAX_MARKDOWN] + "\N{HORIZONTAL ELLIPSIS}"
    # Markdown first, by backslashes; then HTML; then addresses, which would become links by themselves.
    text = "".join(f"\\{mark}" if mark in "\\`*_[]()|#~!{}$" else mark for mark in text)
    text = escape(text, quote=False)
    return re.sub(r"://|@|(?i:www)(?=\.)", lambda m: "".join(f"&#{ord(c)};" for c in m[0]), text)
