"""Removes the API key from everything that an endpoint returns: it may echo the key, and its text is stored."""

from __future__ import annotations

import base64
import functools
import os
import re
from collections.abc import Container
from typing import Any, Final

#: Replaces the key, or a part of it.
MARK: Final = "[key]"
#: Length of the parts of a key that are removed; shorter ones may be ordinary text.
_PART = 8
#: A character as JSON, URLs and HTML may write it.
_ESCAPED = re.compile(
    r"\\+[ux](?:00)?([0-9a-f]{2})|%([0-9a-f]{2})|&#x0*([0-9a-f]{2});|&#0*([0-9]{2,3});|\\+(/)",
    re.IGNORECASE,
)
_MASKED = re.compile(
    r"(\[key\]|(?<![\w-])[\w-]{3,60})(?:\*+|\.{2,}|\u2026+|\u2022+)(\[key\]|[\w-]{0,60})"
)
#: Words in every reply, of which a key of plain words may contain parts.
_PROTOCOL = ("chat.completion", "completion_tokens", "prompt_tokens", "finish_reason")
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def redacted(text: str) -> str:
    """The text without the key of $OPENAI_API_KEY: the key, any 8 characters of it in a row, its ends around a
    mask (`sk-ab...yz`), also escaped, or in base64 or hex.

    A key of fewer than 8 characters is only removed as a whole, and not if it is a word or a number ("none",
    "EMPTY", "0"), as servers of one's own are given.
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    return _KeyFilter(key).remove(text) if key else text


def redacted_strings(value: Any, keep: Container[str] = ()) -> Any:
    """A JSON value with all of its strings `redacted`, but those of its own fields named in `keep`.

    Numbers and hashes stay as they are, whatever digits of the key they happen to hold.
    """
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, list):
        return [redacted_strings(part) for part in value]
    if isinstance(value, dict):
        return {
            redacted(name): part if name in keep else redacted_strings(part)
            for name, part in value.items()
        }
    return value


def printable(text: str) -> str:
    """The text in one line, with "?" for each character that could control a terminal."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


@functools.lru_cache(maxsize=4)
class _KeyFilter:
    def __init__(self, key: str):
        self._key = key.translate(_LOWER)
        self._size = min(_PART, len(key))
        word = key.isalpha() or key.isdecimal()
        spellings = [key] if len(key) >= _PART or not word else []
        if len(key) >= _PART:
            raw = key.encode()
            # Base64 encodes the same bytes in three ways, depending on the bytes before them.
            for offset in range(3):
                for encode in (base64.b64encode, base64.urlsafe_b64encode):
                    encoded = encode(bytes(offset) + raw).decode().rstrip("=")
                    spellings.append(encoded[(0, 2, 3)[offset] : len(encoded) - 1])
            spellings.append(raw.hex())
        spellings = [spelling.translate(_LOWER) for spelling in spellings]
        self._parts = {part for text in spellings for part in self._cut(text, 1, self._size)}
        self._parts -= {part for word in _PROTOCOL for part in self._cut(word, 1, self._size)}
        # Every part of 8 contains one of these, and they are fast to search for.
        half = self._size // 2 or 1
        self._hints = {hint for text in spellings for hint in self._cut(text, half, half)}

    @staticmethod
    def _cut(text: str, step: int, size: int) -> list[str]:
        return [text[i : i + size] for i in range(0, len(text) - size + 1, step)]

    def remove(self, text: str) -> str:
        if not self._parts:
            return text
        plain, offsets = _unescaped(text)
        if any(hint in plain for hint in self._hints):
            pieces, end, until = [], 0, -1
            for start in range(len(plain) - self._size + 1):
                if plain[start : start + self._size] not in self._parts:
                    continue
                if start > until:
                    pieces += [text[end : offsets[start]], MARK]
                until = start + self._size
                end = offsets[until]
            text = "".join(pieces) + text[end:]
        return _MASKED.sub(self._unmasked, text)

    def _unmasked(self, match: re.Match[str]) -> str:
        first, last = match[1], match[2]
        begins = first == MARK or self._key.startswith(first.translate(_LOWER))
        ends = last == MARK or self._key.endswith(last.translate(_LOWER))
        return MARK if begins and ends else match[0]


def _unescaped(text: str) -> tuple[str, list[int] | range]:
    """The text unescaped in lower case, and the offset in `text` of each character and of the end."""
    if not _ESCAPED.search(text):
        return text.translate(_LOWER), range(len(text) + 1)
    pieces: list[str] = []
    offsets: list[int] = []
    end = 0
    for match in _ESCAPED.finditer(text):
        pieces.append(text[end : match.start()])
        offsets += range(end, match.start() + 1)
        hexadecimal = match[1] or match[2] or match[3]
        code = int(hexadecimal, 16) if hexadecimal else int(match[4]) if match[4] else ord("/")
        pieces.append(chr(code))
        end = match.end()
    pieces.append(text[end:])
    return "".join(pieces).translate(_LOWER), [*offsets, *range(end, len(text) + 1)]
