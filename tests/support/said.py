"""What a command says on stderr, less what depends on how busy the machine is."""

from __future__ import annotations

import re

#: Progress; what absl, XLA and TensorStore log (Orbax, that it waits for a save); what libpng says of a file.
_USUAL = re.compile(
    r"step \d+/|(INFO|WARNING):absl:|[IW]\d{4} \d\d:\d\d:\d\d|.*libpng error: |.*skipped an image|$"
)


def errors(stderr: str) -> list[str]:
    """The lines that are neither progress nor a library's."""
    return [line for line in stderr.splitlines() if not _USUAL.match(line)]
