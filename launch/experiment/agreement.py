"""Checks that all processes of a run have the same packed sets, weights, workdir and initial state.

Config, versions and code are compared when the processes meet (`launch.experiment.distributed`); a path
that they share may still lead to other files on each host.
"""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from jax_vlffd.errors import UserError

if TYPE_CHECKING:
    from jax_vlffd.training.processes import SingleProcess
    from jax_vlffd.training.storage import Folder

#: In a workdir while a start looks whether all processes see it.
WORD: Final = ".word"
#: Seconds in which shared storage shows a new file to every host.
_PATIENCE: Final = 5.0


def check_read(peers: SingleProcess, digests: Mapping[str, str]) -> None:
    """Sees that every process has read the same.

    Args:
      peers: the processes; all of them call this.
      digests: what was read, as the user knows it -> its digest.

    Raises:
      UserError: one has read something else; it and what it read are named.
    """
    first, *others = peers.exchange(dict(digests))
    for number, theirs in enumerate(others, 1):
        wrong = [
            name for name in sorted({**first, **theirs}) if first.get(name) != theirs.get(name)
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise UserError(
                f"{peers.name(number)} has other files than process 0: {', '.join(wrong[:3])}{more}; copy them "
                "to every host alike, and start all processes again"
            )


def check_workdir(peers: SingleProcess, place: Folder) -> None:
    """Sees that all processes see one folder of the run, by a random word that process 0 writes into it.

    Raises:
      UserError: one does not see it.
    """
    if peers.count == 1:
        return
    path = place / WORD
    if peers.index == 0:
        place.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(16), "utf-8")
    word = peers.exchange(path.read_text("utf-8") if peers.index == 0 else "")[0]
    until, seen = time.monotonic() + _PATIENCE, False
    while not seen and time.monotonic() < until:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            seen = path.read_text("utf-8") == word
        if not seen:
            time.sleep(0.2)
    blind = [number for number, sees in enumerate(peers.exchange(seen)) if not sees]
    if peers.index == 0:
        path.unlink(missing_ok=True)
    if blind:
        raise UserError(
            f"{peers.name(blind[0])} does not see the folder {place} that process 0 writes; all hosts need "
            "it on storage that they share"
        )


def check_state(peers: SingleProcess, state: Any) -> None:
    """Sees that arrays, or parts of them, that several processes hold are the same on each.

    Args:
      peers: the processes; all of them call this.
      state: a pytree of arrays.

    Raises:
      UserError: one has other values.
    """
    if peers.count == 1:
        return
    import jax

    ours = {
        jax.tree_util.keystr(path, simple=True, separator="/"): _digest(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    first, *others = peers.exchange(ours)
    for number, theirs in enumerate(others, 1):
        for path, (part, digest) in first.items():
            if theirs[path][0] == part and theirs[path][1] != digest:
                raise UserError(
                    f"{peers.name(number)} has other values of {path} than process 0 at the start; see that "
                    "all hosts read the same files, and start all processes again"
                )


def _digest(leaf: Any) -> tuple[str, str]:
    """Of an array: which parts of it this process holds, and a digest of those."""
    import numpy as np

    parts = {str(shard.index): shard for shard in leaf.addressable_shards}
    digest = hashlib.sha256()
    for index in sorted(parts):
        digest.update(np.ascontiguousarray(parts[index].data).tobytes())
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()[:12], digest.hexdigest()[:12]
