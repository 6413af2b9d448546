"""Containment of workdirs and exports, which may come from strangers: no link leads out of them."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

from jax_vlffd.errors import UserError

#: A folder of the Hugging Face cache, and what its files are called.
_HUB = re.compile(r"/models--[^/]+/snapshots/[0-9a-f]{40}$")
_DIGEST = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def check_contained(folder: Path) -> None:
    """Checks that no link leads out of a folder, and that it holds only files and folders.

    Every command that opens a workdir or an export calls this first: by a link other files would be read,
    published or overwritten, and reading a pipe would block. The folder itself may be a link. In the Hugging
    Face cache every file is a link to one in the `blobs` beside the snapshots, named by its digest; those are
    allowed.

    Raises:
      UserError: an entry, which is named, leads out or is a pipe, a socket or a device.
    """
    pending = [folder]
    while pending:
        # A folder that vanishes (a run is active) or cannot be listed cannot be opened either.
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    check_link(folder, Path(entry.path))
                elif entry.is_dir():
                    pending.append(Path(entry.path))
                elif not entry.is_file():
                    raise UserError(f"{entry.path} is neither file nor folder; remove it")


def check_link(folder: Path, path: Path) -> None:
    """Checks that a path in a folder does not lead out of it; see `check_contained`.

    Raises:
      UserError: it does.
    """
    home, real = folder.resolve(), _target(path)
    hub = home.parents[1] / "blobs" if _HUB.search(home.as_posix()) else None
    of_hub = real and hub and real.parent == hub and _DIGEST.fullmatch(real.name)
    if real is None or not (real.is_relative_to(home) or of_hub):
        raise UserError(
            f"{path} is a link out of {folder}; put there what it points to, or remove it"
        )


def _target(link: Path) -> Path | None:
    """The target of a link, None for a circular one."""
    try:
        return link.resolve()
    except (OSError, RuntimeError):
        return None
