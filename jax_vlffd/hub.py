"""The one place that downloads from the Hugging Face hub: a repository, at a revision where one is given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jax_vlffd.errors import UserError

_SOURCE: Final = re.compile(
    # As in Git, a revision has no `..`; it becomes a path in the cache.
    r"([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@(?!.*\.\.)([A-Za-z0-9][\w./-]{0,199}))?",
    re.ASCII,
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}")


def parse(source: str) -> tuple[str, str | None] | None:
    """Splits `OWNER/NAME[@REVISION]` into id and revision: a branch, tag or commit; None for other texts."""
    match = _SOURCE.fullmatch(source)
    return (match[1], match[2]) if match else None


def download(
    source: str,
    *,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    cached: bool = False,
) -> Path:
    """The folder of a repository in the hub's cache, downloaded where files are missing.

    Args:
      source: `OWNER/NAME` or `OWNER/NAME@REVISION`.
      allow: patterns of the files that are downloaded; all by default.
      ignore: patterns of files that are not.
      cached: nothing is downloaded; what the cache has must do.

    Raises:
      UserError: it is not a hub id, or cannot be downloaded.
    """
    parsed = parse(source)
    if parsed is None:
        raise UserError(
            f"{source}: no such folder (a hub id looks like openai/clip-vit-base-patch16, with a revision "
            "like openai/clip-vit-base-patch16@main)"
        )
    import huggingface_hub

    name, revision = parsed
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name,
                revision=revision,
                allow_patterns=None if allow is None else list(allow),
                ignore_patterns=None if ignore is None else list(ignore),
                local_files_only=cached,
            )
        )
    except Exception as error:  # the hub's errors have no common base
        raise UserError(
            f"{source}: neither a folder nor a hub id that could be downloaded ({type(error).__name__}); "
            "download it elsewhere and give the folder"
        ) from error


def commit(folder: Path) -> str | None:
    """The commit of a folder in the hub's cache, which holds each in a folder of its name; else None."""
    return (
        folder.name
        if folder.parent.name == "snapshots" and _COMMIT.fullmatch(folder.name)
        else None
    )


def pinned(source: str, revision: str | None) -> str:
    """`OWNER/NAME@REVISION` of a hub id; a folder, or a source without a known revision, as it is."""
    parsed = None if Path(source).is_dir() else parse(source)
    return f"{parsed[0]}@{revision}" if parsed and revision else source
