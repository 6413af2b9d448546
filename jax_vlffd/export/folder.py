"""The exported folder: names of its files, integrity checks, writing and reading of its parameters.

Besides the formats of other libraries it holds `config.json`, `tokenizer/` and `calibration.json`, like a
workdir, and `orbax/`: the parameters exactly as trained, adapters separate. Our own commands read those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from jax_vlffd import checksums, geometry
from jax_vlffd.errors import UserError
from jax_vlffd.files import read_json

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


def is_export(folder: Path) -> bool:
    """Whether a folder was made by an export."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest, and checks that no file that our commands read is missing.

    Raises:
      UserError: it is damaged, of another version, or a file of the export is missing.
    """
    path = folder / MANIFEST
    with _remedied():
        manifest = read_json(path)
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
    with _remedied():
        return checksums.read(folder)


@contextlib.contextmanager
def _remedied() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}; copy the whole export again") from error


def save_parameters(folder: Path, parameters: Mapping[str, np.ndarray]) -> None:
    """Writes the parameters (path -> array, as trained) with Orbax into `folder/orbax`."""
    import orbax.checkpoint as ocp

    from jax_vlffd.training import storage

    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(storage.for_orbax(folder / PARAMETERS), dict(parameters))


def load_parameters(
    folder: Path, abstract: Mapping[str, jax.ShapeDtypeStruct], prefixes: tuple[str, ...] = ("",)
) -> dict[str, jax.Array]:
    """Reads the parameters of an export, in the shapes and shardings of `abstract`.

    Args:
      folder: the export.
      abstract: of every parameter.
      prefixes: of the paths of those that are read.

    Raises:
      UserError: the export is damaged, or its parameters do not match its config.
    """
    import orbax.checkpoint as ocp

    from jax_vlffd.training import storage

    path = folder / PARAMETERS
    orbax_path = storage.for_orbax(path)
    try:
        storage.check_shapes(path, abstract)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            args = storage.partial_restore(abstract, prefixes)
            parameters: dict[str, jax.Array] = checkpointer.restore(orbax_path, args=args)
            return parameters
    except storage.OtherShapes as error:
        raise UserError(
            f"{path}: not the parameters of the model that {folder / 'config.json'} describes: {error}; copy "
            "the whole export again"
        ) from error
    except Exception as error:  # TensorStore's own errors have no other base
        first = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: damaged ({first}); copy the whole export again") from error
