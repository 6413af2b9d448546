"""Declaration and checks of settings: frozen dataclasses by pydantic, with one-line errors.

A value of another type or out of range, a number that is not finite and an unknown key are errors. Values are
not converted, except where JSON lacks a type: a list is accepted for a tuple, an integer for a float. Imports
no JAX.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar, dataclass_transform

import pydantic
from pydantic import ConfigDict, Field, Strict, ValidationError

from jax_vlffd.errors import UserError

T = TypeVar("T")

#: A share or a probability, 0..1.
Share = Annotated[float, Field(ge=0, le=1)]
#: For tuple fields: accepts a list too, since JSON has no tuples.
AsTuple: Final = Strict(False)
#: How a picture is resized to the model's view. 'antialiased' sees all of it. 'truncated', of versions that did
#: not record it, leaves out the last rows and columns beyond a multiple of the view, up to a third of each.
Resize = Literal["antialiased", "truncated"]
#: Non-empty text.
Name = Annotated[str, Field(min_length=1)]

_CONFIG: Final = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
_MAX_FAULTS: Final = 5  # named in one message


@dataclass_transform(frozen_default=True)
def settings(prefix: str) -> Callable[[type[T]], type[T]]:
    """Makes a class a frozen dataclass that checks its values.

    Constraints are in the fields' types (`pydantic.PositiveInt`, `Literal`, `Annotated[int, Field(ge=-1)]`);
    those on several fields are in `__post_init__`, which raises `UserError`.

    Args:
      prefix: put before a field's name in messages, such as 'optim.' or '--'.
    """

    def declare(kind: type[T]) -> type[T]:
        declared: Any = pydantic.dataclasses.dataclass(kind, frozen=True, config=_CONFIG)
        checked_init = declared.__init__

        @functools.wraps(checked_init)
        def init(self: T, /, *args: Any, **values: Any) -> None:
            try:
                checked_init(self, *args, **values)
            except ValidationError as error:
                raise UserError(
                    _in_one_line(error, prefix, declared.__dataclass_fields__)
                ) from None

        declared.__init__ = init
        return declared

    return declare


def _in_one_line(error: ValidationError, prefix: str, fields: Iterable[str]) -> str:
    names, faults = list(fields), []
    for fault in error.errors(include_url=False, include_context=False):
        first, *rest = fault["loc"] or ("",)
        # Positional values are located by number.
        first = names[first] if isinstance(first, int) and first < len(names) else first
        key, message = ".".join(map(str, (first, *rest))), fault["msg"]
        if fault["type"] == "unexpected_keyword_argument":
            faults.append(_unknown(prefix.rstrip("."), key, names))
        elif fault["type"] == "missing":
            faults.append(f"{prefix}{key} is missing")
        else:
            message = message.removeprefix("Value error, ").replace("Input should", "it must", 1)
            faults.append(f"{prefix}{key} is {fault['input']!r:.80}: {message}")
    more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
    return "; ".join(faults[:_MAX_FAULTS]) + more


def build(kind: type[T], values: Any, group: str) -> T:
    """Builds settings from a group of plain values of a config or a JSON file.

    Raises:
      UserError: an unknown key (the nearest valid one is named), or an invalid value.
    """
    return kind(**check_group(values, group))


def check_group(values: Any, group: str) -> Mapping[str, Any]:
    """Returns the values, which must be a group.

    Raises:
      UserError: they are not a mapping.
    """
    if not isinstance(values, Mapping):
        raise UserError(f"{group} is {values!r:.80}: it must be a group of settings")
    return values


def check_known(where: str, values: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raises UserError for a key of `values` that is not in `names`."""
    for key in values:
        if key not in names:
            raise UserError(_unknown(where, key, names))


def _unknown(where: str, key: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(key, names, 1, 0.5)
    hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(sorted(names))}"
    return f"{where} has no key {key!r}; {hint}"
