"""The exported folder: names of its files, integrity checks, writing and reading of its parameters.

Besides the formats of other libraries it holds `config.json`, `tokenizer/` and `calibration.json`, like a
workdir, and `orbax/`: the parameters exactly as trained, adapters separate. Our own commands read those.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jax_vlffd import checksums, geometry
from jax_vlffd.errors import UserError

if TYPE_CHECKING:  # JAX is imported when parameters are read or written
    import jax

MANIFEST: Final = "export.json"
HF, HEADS, ADAPTER, PROGRAM = "hf", "heads.safetensors", "adapter", "model.stablehlo"
PARAMETERS, CARD, CHECKSUMS = "orbax", "README.md", checksums.FILE
#: What only other libraries read: our commands work without it.
FOR_OTHERS: Final = (f"{HF}/", f"{ADAPTER}/", PROGRAM)
#: What our commands would read though it was added to the folder.
_READ: Final = (
    "calibration.json",
    "explanation.safetensors",
    geometry.FILE,
    f"{PARAMETERS}/",
    "tokenizer/",
)

VERSION: Final = 1
_MAX_BYTES: Final = 4 << 20  # of the manifest


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


def check_files(folder: Path) -> None:
    """Checks the bytes of all files that our commands read against the list of checksums.

    The model card may be edited, and what only other libraries read is not checked.

    Raises:
      UserError: a file was changed or added since the export; names it.
    """
    listed = {name: digest for name, digest in _listed(folder).items() if _is_read(name)}
    wrong = checksums.changed(folder, listed) + [
        name
        for path in folder.rglob("*")
        if path.is_file()
        and (name := path.relative_to(folder).as_posix()) not in listed
        and name.startswith(_READ)
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UserError(
            f"{folder}: {', '.join(wrong[:3])}{more} differs from {CHECKSUMS}: the export was damaged or "
            "changed; copy the whole folder again, or export the run again"
        )


def _is_read(name: str) -> bool:
    return not name.startswith(FOR_OTHERS) and name != CARD


def _listed(folder: Path) -> dict[str, str]:
    """Name -> digest in the list of checksums."""
    try:
        return checksums.read(folder)
    except OSError as error:
        raise UserError(
            f"{folder / CHECKSUMS}: cannot be read ({error}); copy the whole export again"
        ) from None


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
