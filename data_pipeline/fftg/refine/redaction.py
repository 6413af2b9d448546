"""Keeping the API key out of all that an endpoint says: it may echo it, and what it says is kept and shown."""

from __future__ import annotations

import base64
import functools
import os
import re
from typing import Final

#: What stands in place of the key, or of a part of it.
MARK: Final = "[key]"
#: Letters in a row that tell something of a key; fewer may be anyone's.
_PART = 8
#: A letter as JSON, URLs and HTML may write it.
_ESCAPED = re.compile(
    r"\\+[ux](?:00)?([0-9a-f]{2})|%([0-9a-f]{2})|&#x0*([0-9a-f]{2});|&#0*([0-9]{2,3});|\\+(/)",
    re.IGNORECASE,
)
_MASKED = re.compile(
    r"(\[key\]|(?<![\w-])[\w-]{3,60})(?:\*+|\.{2,}|\u2026+|\u2022+)(\[key\]|[\w-]{0,60})"
)
#: The fields of every reply, which a key of plain words may share letters with.
_PROTOCOL = ("chat.completion", "completion_tokens", "prompt_tokens", "finish_reason")
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def redacted(text: str) -> str:
    """A text without the key of $OPENAI_API_KEY: whole, 8 letters of it or more, its ends around a mask
    (`sk-ab...yz`), escaped, or in base64.

    A key of less than 8 letters is looked for whole, and is none where it is a word ("none", "EMPTY").
    """
    key = os.environ.get("OPENAI_API_KEY", "")
    return _Key(key).removed(text) if key else text


def printable(text: str) -> str:
    """A text in one line, with "?" for each letter that a terminal would take for an order."""
    return "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))


@functools.lru_cache(maxsize=4)
class _Key:
    def __init__(self, key: str):
        self._key = key.translate(_LOWER)
        self._size = min(_PART, len(key))
        spellings = [key] if len(key) >= _PART or not key.isalpha() else []
        if len(key) >= _PART:
            raw = key.encode()
            # Base64 says the same letters in three ways, by what stands before them.
            for before in range(3):
                for encode in (base64.b64encode, base64.urlsafe_b64encode):
                    letters = encode(bytes(before) + raw).decode().rstrip("=")
                    spellings.append(letters[(0, 2, 3)[before] : len(letters) - 1])
            spellings.append(raw.hex())
        spellings = [spelling.translate(_LOWER) for spelling in spellings]
        self._parts = {part for text in spellings for part in self._cut(text, 1, self._size)}
        self._parts -= {part for word in _PROTOCOL for part in self._cut(word, 1, self._size)}
        # Wherever there is a part of 8, one of these is too, and they are soon looked for.
        half = self._size // 2 or 1
        self._hints = {hint for text in spellings for hint in self._cut(text, half, half)}

    @staticmethod
    def _cut(text: str, step: int, size: int) -> list[str]:
        return [text[i : i + size] for i in range(0, len(text) - size + 1, step)]

    def removed(self, text: str) -> str:
        if not self._parts:
            return text
        plain, places = _unescaped(text)
        if any(hint in plain for hint in self._hints):
            kept, end, until = [], 0, -1
            for start in range(len(plain) - self._size + 1):
                if plain[start : start + self._size] not in self._parts:
                    continue
                if start > until:
                    kept += [text[end : places[start]], MARK]
                until = start + self._size
                end = places[until]
            text = "".join(kept) + text[end:]
        return _MASKED.sub(self._unmasked, text)

    def _unmasked(self, found: re.Match[str]) -> str:
        first, last = found[1], found[2]
        begins = first == MARK or self._key.startswith(first.translate(_LOWER))
        ends = last == MARK or self._key.endswith(last.translate(_LOWER))
        return MARK if begins and ends else found[0]


def _unescaped(text: str) -> tuple[str, list[int] | range]:
    """The letters of a text in lower case, with where each begins in it and at last where it ends."""
    if not _ESCAPED.search(text):
        return text.translate(_LOWER), range(len(text) + 1)
    letters: list[str] = []
    places: list[int] = []
    end = 0
    for found in _ESCAPED.finditer(text):
        letters.append(text[end : found.start()])
        places += range(end, found.start() + 1)
        hexadecimal = found[1] or found[2] or found[3]
        code = int(hexadecimal, 16) if hexadecimal else int(found[4]) if found[4] else ord("/")
        letters.append(chr(code))
        end = found.end()
    letters.append(text[end:])
    return "".join(letters).translate(_LOWER), [*places, *range(end, len(text) + 1)]
