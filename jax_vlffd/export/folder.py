"""The exported folder: names of its files, checks that it is whole, its parameters written and read.

Beside what is made for elsewhere it holds `config.json`, `tokenizer/` and `calibration.json` as a workdir does,
and `orbax/`: the parameters exactly as trained, adapters apart. Our own commands read those.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jax_vlffd.errors import UserError

if TYPE_CHECKING:  # JAX is imported when parameters are read or written
    import jax

MANIFEST: Final = "export.json"
HF, HEADS, ADAPTER, PROGRAM = "hf", "heads.safetensors", "adapter", "model.stablehlo"
PARAMETERS, CARD, CHECKSUMS = "orbax", "README.md", "SHA256SUMS"
#: What other libraries read: whoever copies an export for our commands may leave it behind.
FOR_OTHERS: Final = (f"{HF}/", f"{ADAPTER}/", PROGRAM)

VERSION: Final = 1
_MAX_BYTES: Final = 4 << 20  # of the manifest and of the list of checksums


def is_export(folder: Path) -> bool:
    """Whether a folder was made by an export."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of an export that holds all that our commands read.

    Raises:
      UserError: it is damaged, of another version, or a file that the export had is missing.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(_small_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy the export again") from None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise UserError(f"{path}: not an export of version {VERSION}; export the run again")
    if type(manifest.get("step")) is not int:
        raise UserError(f"{path}: names no step; export the run again")
    missing = [
        name
        for name in _listed(folder)
        if not name.startswith(FOR_OTHERS) and not (folder / name).is_file()
    ]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise UserError(
            f"{folder}: {', '.join(missing[:3])}{more} of the export is missing; copy the whole folder again"
        )
    return manifest


def _listed(folder: Path) -> list[str]:
    """The files of the list of checksums; none of them can lie outside the folder."""
    path = folder / CHECKSUMS
    names = [line.partition("  ")[2] for line in _small_text(path).splitlines()]
    if not names or any(
        not name or Path(name).is_absolute() or ".." in Path(name).parts for name in names
    ):
        raise UserError(f"{path}: not a list of an export's files; copy the folder again")
    return names


def _small_text(path: Path) -> str:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise UserError(f"{path}: larger than any such file; copy the export again")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy the whole export again") from None


def save_parameters(folder: Path, parameters: Mapping[str, np.ndarray]) -> None:
    """Writes the parameters by Orbax into `folder/orbax`."""
    import orbax.checkpoint as ocp

    from jax_vlffd.training import storage

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(storage.for_orbax(folder / PARAMETERS), dict(parameters))


def load_parameters(
    folder: Path, abstract: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Reads the parameters of an export, in the shardings of `abstract`.

    Raises:
      UserError: the export is damaged, or its parameters are not those that its config describes.
    """
    import orbax.checkpoint as ocp

    from jax_vlffd.training import storage

    path = folder / PARAMETERS
    place = storage.for_orbax(path)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            # Orbax itself would start to read before it finds a shape that does not fit.
            stored = checkpointer.metadata(place).item_metadata.tree
            faults = _faults({name: tuple(leaf.shape) for name, leaf in stored.items()}, abstract)
            if not faults:
                found: dict[str, jax.Array] = checkpointer.restore(place, dict(abstract))
                return found
    except Exception as error:  # TensorStore's own errors have no other base
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged ({first}); copy the whole export again") from error
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    raise UserError(
        f"{path}: not the parameters of the model that {folder / 'config.json'} describes: "
        f"{'; '.join(faults[:3])}{more}; copy the whole export again"
    )


def _faults(
    stored: Mapping[str, tuple[int, ...]], wanted: Mapping[str, jax.ShapeDtypeStruct]
) -> list[str]:
    """What keeps stored parameters from being those wanted, in words."""
    faults = [f"{name} is missing" for name in sorted(wanted.keys() - stored.keys())]
    faults += [f"{name} has no place" for name in sorted(stored.keys() - wanted.keys())]
    faults += [
        f"{name} is {list(stored[name])}, not {list(wanted[name].shape)}"
        for name in sorted(wanted.keys() & stored.keys())
        if stored[name] != wanted[name].shape
    ]
    return faults


def write_checksums(folder: Path) -> None:
    """Writes `SHA256SUMS` of every file in the folder; `sha256sum -c` checks it."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    (folder / CHECKSUMS).write_text("".join(lines), "utf-8")
