"""Errors of recipes (config files), which are programs of the user: file, line and error."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

from jax_vlffd.errors import fault

_FLAGS: Final = "config_flags.py"


def recipe_fault(error: BaseException, recipe: str = "") -> str | None:
    """`FILE, line N: TypeError: ...` for an error that came out of a recipe; None for others.

    Args:
      error: as it was raised, or as the config flag's reader raised it anew.
      recipe: path of the recipe; where it is empty, the file that the config flag's reader ran.
    """
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for cause in reversed(chain):
        frames = traceback.extract_tb(cause.__traceback__)
        within = [n for n, frame in enumerate(frames) if Path(frame.filename).name == _FLAGS]
        if isinstance(cause, SyntaxError) and (recipe or within):
            # Python names no file where it holds a null byte.
            file = cause.filename or recipe or "the recipe of --config"
            return f"{file}, line {cause.lineno or 1}: {type(cause).__name__}: {cause.msg}"
        if not recipe and not within:
            continue
        run = [
            frame for frame in (frames if recipe else frames[within[-1] + 1 :])
            if not frame.filename.startswith("<frozen")
        ]  # fmt: skip
        own = [frame for frame in run if frame.filename == (recipe or run[0].filename)]
        if own and not {"absl", "ml_collections"} & {*Path(own[0].filename).parts}:
            return f"{own[-1].filename}, line {own[-1].lineno}: {fault(cause)}"
    return None
