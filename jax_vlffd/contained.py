"""Containment: what is read or written in a folder that may be a stranger's lies in it."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from jax_vlffd.errors import UserError

_MAX_BYTES = 16 << 20
#: A folder of the Hugging Face cache, and what its files are called.
_HUB = re.compile(r"/models--[^/]+/snapshots/[0-9a-f]{40}$")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def check_contained(folder: Path) -> None:
    """Sees that no link leads out of a folder, and that it holds only files and folders.

    Every command that opens a workdir or an export asks for this first: a link would have other files read,
    published or written over, and a pipe would be waited for. The folder itself may be a link. In the Hugging
    Face cache every file is a link to one in the `blobs` beside the snapshots, called by its digest; those are
    let be.

    Raises:
      UserError: a part of it leads out, or is a pipe, a socket or a device; it is named.
    """
    home = folder.resolve()
    hub = home.parents[1] / "blobs" if _HUB.search(home.as_posix()) else None
    waiting = [folder]
    while waiting:
        # What vanishes (a run goes on) or cannot be listed cannot be opened either.
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    real = _target(Path(entry.path))
                    of_hub = real and hub and real.parent == hub and _DIGEST.fullmatch(real.name)
                    if real is None or not (real.is_relative_to(home) or of_hub):
                        raise UserError(
                            f"{entry.path} is a link out of {folder}; put there what it points to, or remove it"
                        )
                elif entry.is_dir():
                    waiting.append(Path(entry.path))
                elif not entry.is_file():
                    raise UserError(f"{entry.path} is neither file nor folder; remove it")


def read_small(path: Path) -> str:
    """The text of a file of a run that is small by nature: at most 16 MiB.

    Raises:
      OSError: it is missing or cannot be read.
      ValueError: it is larger, or is not UTF-8.
    """
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ValueError(f"larger than {_MAX_BYTES:,} bytes")
    return data.decode("utf-8")


def _target(link: Path) -> Path | None:
    """Where a link leads, None for one that leads round in a circle."""
    try:
        return link.resolve()
    except (OSError, RuntimeError):
        return None
