"""Errors of flags, absl's and ml_collections', in one line that says what to write."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from jax_vlffd.errors import UserError

_MAX_VALUE: Final = 80  # letters of a value in a message
#: What a reason of absl's means; groups of the pattern are put in.
_REASONS: Final = (
    (r"invalid literal for int.*|Exceeds the limit.*", "give a whole number"),
    (r"could not convert string to float.*", "give a number"),
    (r"\('Non-boolean argument to boolean flag'.*", "give true or false"),
    (r"value should be one of <(.*)>", "give one of {0}"),
    (
        r"Failed to parse .* as a ConfigDict.*",
        "a group of settings; set each, as --{flag}.KEY=value",
    ),
)


def message(error: Exception) -> str | None:
    """The line for an error of the parsing of flags; None where it is an error of the program."""
    text = " ".join(str(error).split())
    if missing := re.findall(r"Flag --(\S+) must have a value other than None", text):
        return f"{', '.join(f'--{name}' for name in missing)} must have a value; see --help"
    if match := re.fullmatch(r"flag --(\S+?)=(.*?): (.*)", text):
        flag, value, reason = match.groups()
        if len(value) > _MAX_VALUE:
            value = value[:_MAX_VALUE] + "..."
        for pattern, form in _REASONS:
            if fitting := re.fullmatch(pattern, reason):
                remedy = form.format(
                    *(group.replace("|", ", ") for group in fitting.groups()), flag=flag
                )
                return f"--{flag}={value}: {remedy}; see --help"
        if "Traceback (most recent call last)" in reason:  # ml_collections' own
            reason = str(error).strip().splitlines()[-1]
        return f"--{flag}={value}: {reason}; see --help"
    if match := re.fullmatch(r"Missing value for flag --(.*)", text):
        return f"--{match[1]} must have a value; see --help"
    if match := re.search(r'Did you mean "(.+?)" instead of "(.+?)"', text):
        return f"the config has no key {match[2]!r}; did you mean {match[1]!r}?; see --help"
    text = text.rpartition("earlier failure to load: ")[2]
    if match := re.fullmatch(r"[\"'\\]*(\w+)[\"'\\]*", text):
        return f"the config has no key {match[1]!r}; see --help"
    kind = type(error)
    ours = kind.__module__.startswith(("absl.", "ml_collections."))
    known = (AttributeError, KeyError, OSError, ImportError, TypeError, ValueError)
    return f"{text[:500]}; see --help" if ours or isinstance(error, known) else None


def check_numbers(values: Mapping[str, Any]) -> None:
    """Checks the numbers among the values of flags.

    Raises:
      UserError: one is not finite, or takes more than 64 bits.
    """
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UserError(f"--{name}={value}: give a finite number")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"--{name}={str(value)[:_MAX_VALUE]}: give a smaller number")
