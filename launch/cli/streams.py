"""Standard streams that end no command: closed ones, a reader that has gone, a terminal without the letters."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, Any, Final

from jax_vlffd.errors import printable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


def open_closed() -> None:
    """Opens /dev/null for the standard streams that are closed, before a file of ours takes their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


#: What an error calls stdout.
STDOUT: Final = "standard output"


class _Stream(io.FileIO):
    """A standard stream; after its first error, what is written goes nowhere.

    `work_goes_on` tells whether a reader that has gone (as `head`) is not an error.
    """

    work_goes_on = True

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            gone = isinstance(error, BrokenPipeError)
            if self.fileno() == 2 or (gone and self.work_goes_on):
                return memoryview(data).nbytes
            error.filename = STDOUT
            raise


class _Results(io.TextIOWrapper):
    """Text of stdout, without control characters: a name or a path may hold those that a terminal obeys."""

    def write(self, text: str, /) -> int:
        if not text.isprintable():
            kept = "\n\t"
            text = "".join(c if c in kept else printable(c) for c in text)
        return super().write(text)


def guard() -> None:
    """Replaces stdout and stderr. A letter that a terminal cannot show is written as its escape."""
    open_closed()
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or isinstance(_raw(stream), _Stream):
            continue  # a test's own, or done already
        stream.flush()
        raw = _Stream(number, "wb", closefd=False)
        wrapper = _Results if name == "stdout" else io.TextIOWrapper
        text = wrapper(
            io.BufferedWriter(raw), stream.encoding, "backslashreplace",
            line_buffering=number == 2 or raw.isatty(), write_through=stream.write_through,
        )  # fmt: skip
        setattr(sys, name, text)


def end_without_reader() -> None:
    """Lets a reader of stdout that has gone end the command (BrokenPipeError), which writes no file."""
    raw = _raw(sys.stdout)
    if isinstance(raw, _Stream):
        raw.work_goes_on = False


def _raw(stream: Any) -> Any:
    return getattr(getattr(stream, "buffer", None), "raw", None)
