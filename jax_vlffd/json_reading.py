"""Reads untrusted JSON: any fault is a ValueError.

Python's own reader ends in RecursionError where values are nested deeply, gives integers that no float
holds, infinity for 1e400, and strings with half a surrogate pair, which no file takes.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

#: Levels of lists and objects; an annotation line has five.
MAX_DEPTH: Final = 64
_DIGITS = 19  # of the largest integer of 64 bits
_HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")


def parse_json(text: str | bytes, *, lenient: bool = False) -> Any:
    """The value of a JSON text. Half a surrogate pair is read as U+FFFD.

    Args:
        text: bytes are UTF-8.
        lenient: numbers that no 64 bits hold are NaN, for those who check each number that they use; else
            they are an error.

    Raises:
        ValueError: it is not JSON, nested deeper than `MAX_DEPTH`, or holds such a number.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    decoder = _LENIENT if lenient else _STRICT
    try:
        value = decoder.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > MAX_DEPTH or _HALF_PAIR.search(text):
        value = _bounded(value, MAX_DEPTH)
    return value


def parse_json_at(text: str, start: int) -> tuple[Any, int]:
    """The JSON value that begins at a place in a text, and where it ends; see `parse_json`, lenient.

    Raises:
        json.JSONDecodeError: there is none; `pos` is where reading ended.
    """
    try:
        value, end = _LENIENT.raw_decode(text, start)
        return _bounded(value, MAX_DEPTH), end
    except json.JSONDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise json.JSONDecodeError(str(error), text, len(text)) from None


def _bounded(value: Any, levels: int) -> Any:
    if isinstance(value, str):
        return (
            value
            if value.isascii()
            else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        )
    if not isinstance(value, (list, dict)):
        return value
    if levels == 0:
        raise ValueError("nested too deeply")
    if isinstance(value, list):
        return [_bounded(part, levels - 1) for part in value]
    return {_bounded(name, levels): _bounded(part, levels - 1) for name, part in value.items()}


def _integer(text: str) -> int:
    value = int(text) if len(text) <= _DIGITS + 1 else 2**63
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"the number {text[:12]}... is too large")
    return value


def _float(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"the number {text[:12]}... is too large")
    return value


def _integer_or_nan(text: str) -> float:
    try:
        return _integer(text)
    except ValueError:
        return math.nan


def _float_or_nan(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else math.nan


_STRICT: Final = json.JSONDecoder(parse_int=_integer, parse_float=_float)
_LENIENT: Final = json.JSONDecoder(
    parse_int=_integer_or_nan, parse_float=_float_or_nan, parse_constant=lambda name: math.nan
)
