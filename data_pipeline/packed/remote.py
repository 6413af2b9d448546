"""Packed sets in a bucket: copied to a local disk when they are first opened.

ArrayRecord and the memory-mapped index need files. A copy is checked against the set's SHA256SUMS, and a set
that is packed anew is copied anew. Needs the extra `gcs`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from data_pipeline.core.files import new_folder
from data_pipeline.packed.set_files import regular
from jax_vlffd.errors import UserError
from jax_vlffd.files import open_regular, read_regular

if TYPE_CHECKING:
    from etils import epath

#: In a packed set: a digest of each of its other files.
CHECKSUMS: Final = "SHA256SUMS"
_CHUNK: Final = 8 << 20
_LINE: Final = re.compile(r"([0-9a-f]{64}) [ *](\S.*)")
_MAX_SUMS: Final = 1 << 20  # bytes of SHA256SUMS
_BLOCKS, _BLOCK = (
    16,
    1 << 16,
)  # of a file of records: how many are read for a digest, and their bytes
_MAX_INDEX: Final = 1 << 30  # bytes of an index: 16 a record
_NOT_COPIED: Final = (
    "cannot be copied here",
    "see that it is there, that this machine may read it, and that there is room in $XDG_CACHE_HOME",
)


def local(address: str | os.PathLike[str]) -> Path:
    """The folder of a packed set: `address` itself, or a copy of it where it is gs://BUCKET/SET.

    Raises:
        UserError: the bucket cannot be read, or the set there is none or not whole.
    """
    text = os.fspath(address)
    if "://" not in text:
        return Path(text)
    if not text.startswith("gs://"):
        raise UserError(
            f"{text}: of addresses only gs:// is known; give a folder or gs://BUCKET/SET"
        )
    from etils import epath

    with bucket_errors(text, *_NOT_COPIED):
        source = epath.Path(text.rstrip("/"))
        listed = source / CHECKSUMS
        if not listed.exists() or listed.stat().length > _MAX_SUMS:
            raise UserError(
                f"{text} is not a packed set: it has no {CHECKSUMS}; make one with launch.pack"
            )
        sums = listed.read_text("utf-8")
        digest = hashlib.sha256(f"{source}\n{sums}".encode()).hexdigest()[:16]
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = Path(home) / "jax_vlffd" / "sets" / f"{source.name}-{digest}"
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _alone(folder.with_suffix(".lock")):
            if not folder.is_dir():
                _copy(source, sums, folder)
    return folder


def set_digest(folder: Path) -> str:
    """SHA-256, in hexadecimal, of what a packed set holds.

    Read are its list of checksums (where it has one), its index, its `dataset_info.json`, and of every file of
    records the size and some blocks: a set of terabytes is not read whole at each start. So another set's
    records are noticed, and a copy that was cut short; a few bytes that were changed are not.

    Raises:
        UserError: the files cannot be read, or are larger than such files are.
    """
    digest = hashlib.sha256()
    listed = folder / CHECKSUMS
    paths = [folder / "dataset_info.json", *sorted((folder / "index").iterdir())]
    for path in [listed, *paths] if listed.exists() else paths:
        data = read_regular(regular(folder, str(path.relative_to(folder))), _MAX_INDEX)
        digest.update(f"{path.name} {len(data)}\n".encode())
        digest.update(data)
    for path in sorted(path for path in folder.iterdir() if ".array_record-" in path.name):
        with open_regular(regular(folder, path.name)) as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size}\n".encode())
            for number in range(_BLOCKS):
                file.seek(number * max(size - _BLOCK, 0) // (_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def check_index(folder: Path, split: str) -> None:
    """Compares the index of a split with the set's list of checksums, where it has one.

    The index says which records are pairs, and nothing else would notice another byte in it. Records are too
    many to be read at each start; ArrayRecord has checksums of its own for them.

    Raises:
        UserError: it differs, or the list cannot be read or is none.
    """
    if not (folder / CHECKSUMS).exists():
        return
    sums = read_regular(regular(folder, CHECKSUMS), _MAX_SUMS).decode("utf-8", "replace")
    listed = dict(_listed(folder, sums))
    for name in ("index/index.json", f"index/{split}.npy"):
        digest = hashlib.sha256()
        with open_regular(regular(folder, name)) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
        if listed.get(name, digest.hexdigest()) != digest.hexdigest():
            raise UserError(f"{folder / name} differs from {CHECKSUMS}; copy or pack the set again")


def _listed(source: Path | epath.Path, sums: str) -> Iterator[tuple[str, str]]:
    """Name and digest of each line of a list of checksums."""
    for line in sums.splitlines():
        match = _LINE.fullmatch(line)
        if match is None or Path(match[2]).is_absolute() or ".." in Path(match[2]).parts:
            raise UserError(f"{source / CHECKSUMS}: {line[:80]!r} is not a line of such a file")
        yield match[2], match[1]


def _copy(source: epath.Path, sums: str, folder: Path) -> None:
    sys.stderr.write(f"copying {source} to {folder}\n")
    with new_folder(folder) as aside, bucket_errors(str(source), *_NOT_COPIED):
        for name, expected in _listed(source, sums):
            target, digest = aside / name, hashlib.sha256()
            target.parent.mkdir(parents=True, exist_ok=True)
            with (source / name).open("rb") as source_file, target.open("wb") as target_file:
                while chunk := source_file.read(_CHUNK):
                    digest.update(chunk)
                    target_file.write(chunk)
            if digest.hexdigest() != expected:
                raise UserError(f"{source / name} is damaged; copy or pack the set again")
        (aside / CHECKSUMS).write_text(sums, "utf-8")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Lets one process of this machine copy, and the others wait for it."""
    with path.open("a") as file:
        with contextlib.suppress(OSError):  # a disk without locks: each copies for itself
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def bucket_errors(place: str, fault: str, remedy: str) -> Iterator[None]:
    """Turns what goes wrong with a bucket into an error for the user; its clients have errors of their own.

    Raises:
        UserError: `place` and `fault`, what the client said, and the `remedy`.
    """
    try:
        yield
    except UserError:
        raise
    except ImportError as error:
        raise UserError(
            f"{place}: pip install 'jax-vlffd[gcs]' to use a bucket ({error})"
        ) from error
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{place} {fault} ({words[:300]}); {remedy}") from error
