"""The exported folder: names of its files, integrity checks, writing and reading of its parameters.

Besides the formats of other libraries it holds `config.json`, `tokenizer/` and `calibration.json`, like a
workdir, and `orbax/`: the parameters exactly as trained, adapters separate. Our own commands read those.
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
#: What only other libraries read: our commands work without it.
FOR_OTHERS: Final = (f"{HF}/", f"{ADAPTER}/", PROGRAM)

VERSION: Final = 1
_MAX_BYTES: Final = 4 << 20  # of the manifest and of the list of checksums


def is_export(folder: Path) -> bool:
    """Whether a folder was made by an export."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest, and checks that no file that our commands read is missing.

    Raises:
      UserError: it is damaged, of another version, or a file of the export is missing.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(_small_text(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy the export again") from None
    if not isinstance(manifest, dict) or manifest.get("version") != VERSION:
        raise UserError(f"{path}: not an export of version {VERSION}; export the run again")
    if type(manifest.get("step")) is not int:
        raise UserError(f"{path}: has no step; export the run again")
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
    """The names in the list of checksums, all of them inside the folder."""
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
            raise UserError(f"{path}: larger than such a file can be; copy the export again")
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); copy the whole export again") from None


def save_parameters(folder: Path, parameters: Mapping[str, np.ndarray]) -> None:
    """Writes the parameters (path -> array, as trained) with Orbax into `folder/orbax`."""
    import orbax.checkpoint as ocp

    from jax_vlffd.training import storage

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(storage.for_orbax(folder / PARAMETERS), dict(parameters))


def load_parameters(
    folder: Path, abstract: Mapping[str, jax.ShapeDtypeStruct]
) -> dict[str, jax.Array]:
    """Reads the parameters of an export, in the shapes and shardings of `abstract`.

    Raises:
      UserError: the export is damaged, or its parameters do not match its config.
    """
    import orbax.checkpoint as ocp

    from jax_vlffd.training import storage

    path = folder / PARAMETERS
    orbax_path = storage.for_orbax(path)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            # Orbax itself would start to read before it detects a wrong shape.
            stored = checkpointer.metadata(orbax_path).item_metadata.tree
            faults = _faults({name: tuple(leaf.shape) for name, leaf in stored.items()}, abstract)
            if not faults:
                parameters: dict[str, jax.Array]
                parameters = checkpointer.restore(orbax_path, dict(abstract))
                return parameters
    except Exception as error:  # TensorStore's own errors have no other base
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged ({first}); copy the whole export again") from error
    more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
    raise UserError(
        f"{path}: not the parameters of the model that {folder / 'config.json'} describes: "
        f"{'; '.join(faults[:3])}{more}; copy the whole export again"
    )


def _faults(
    stored: Mapping[str, tuple[int, ...]], expected: Mapping[str, jax.ShapeDtypeStruct]
) -> list[str]:
    """Describes each difference between the stored and the expected shapes."""
    faults = [f"{name} is missing" for name in sorted(expected.keys() - stored.keys())]
    faults += [
        f"{name} is not a parameter of the model"
        for name in sorted(stored.keys() - expected.keys())
    ]
    faults += [
        f"{name} is {list(stored[name])}, not {list(expected[name].shape)}"
        for name in sorted(expected.keys() & stored.keys())
        if stored[name] != expected[name].shape
    ]
    return faults


def write_checksums(folder: Path) -> None:
    """Writes `SHA256SUMS` for every file in the folder, for `sha256sum -c`."""
    lines = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(folder).as_posix()}\n")
    (folder / CHECKSUMS).write_text("".join(lines), "utf-8")
