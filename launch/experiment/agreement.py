"""Checks that all processes of a run have the same packed sets, weights, workdir and initial state.

Config, versions and code are compared when the processes connect (`launch.experiment.distributed`); the same
path may still lead to different files on each host.
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
    from jax_vlffd.training.storage import StoragePath

#: File in a workdir while a start checks that all processes see the same folder.
TOKEN_FILE: Final = ".word"
#: Seconds until shared storage shows a new file on every host.
_VISIBILITY_TIMEOUT: Final = 5.0


def check_read(peers: SingleProcess, digests: Mapping[str, str]) -> None:
    """Checks that every process has read the same files.

    Args:
      peers: the processes; all of them call this.
      digests: the input as the user knows it -> digest of what was read.

    Raises:
      UserError: a process has read something else; names it and the input.
    """
    first, *others = peers.exchange(dict(digests))
    for number, other in enumerate(others, 1):
        differing = [
            name
            for name in sorted(first.keys() | other.keys())
            if first.get(name) != other.get(name)
        ]
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            raise UserError(
                f"{peers.name(number)} has other files than process 0: {', '.join(differing[:3])}{more}; "
                "copy the same files to every host, and start all processes again"
            )


def check_workdir(peers: SingleProcess, folder: StoragePath) -> None:
    """Checks that all processes see the same folder, by a random token that process 0 writes into it.

    Raises:
      UserError: a process does not see it.
    """
    if peers.count == 1:
        return
    path = folder / TOKEN_FILE
    if peers.index == 0:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(secrets.token_hex(16), "utf-8")
    token = peers.exchange(path.read_text("utf-8") if peers.index == 0 else "")[0]
    deadline, seen = time.monotonic() + _VISIBILITY_TIMEOUT, False
    while not seen and time.monotonic() < deadline:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            seen = path.read_text("utf-8") == token
        if not seen:
            time.sleep(0.2)
    blind = [number for number, sees in enumerate(peers.exchange(seen)) if not sees]
    if peers.index == 0:
        path.unlink(missing_ok=True)
    if blind:
        raise UserError(
            f"{peers.name(blind[0])} does not see the folder {folder} that process 0 writes; all hosts need "
            "it on storage that they share"
        )


def check_state(peers: SingleProcess, state: Any) -> None:
    """Checks that array shards held by several processes have the same values on each.

    Args:
      peers: the processes; all of them call this.
      state: a pytree of arrays.

    Raises:
      UserError: a process has other values.
    """
    if peers.count == 1:
        return
    import jax

    digests = {
        jax.tree_util.keystr(path, simple=True, separator="/"): _digest(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }
    first, *others = peers.exchange(digests)
    for number, other in enumerate(others, 1):
        for path, (indices, digest) in first.items():
            if other[path][0] == indices and other[path][1] != digest:
                raise UserError(
                    f"{peers.name(number)} has other values of {path} than process 0 at the start; see that "
                    "all hosts read the same files, and start all processes again"
                )


def _digest(leaf: Any) -> tuple[str, str]:
    """Digests of the shard indices that this process holds of an array, and of their values."""
    import numpy as np

    shards = {str(shard.index): shard for shard in leaf.addressable_shards}
    digest = hashlib.sha256()
    for index in sorted(shards):
        digest.update(np.ascontiguousarray(shards[index].data).tobytes())
    return hashlib.sha256(repr(sorted(shards)).encode()).hexdigest()[:12], digest.hexdigest()[:12]
