"""The files of a Hugging Face checkpoint: downloaded, listed, and named where they are of another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from jax_vlffd import files, hub
from jax_vlffd.errors import UserError
from jax_vlffd.path_containment import check_link

_DOWNLOADED: Final = (
    "config.json", "model*.safetensors", "model.safetensors.index.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json",
)  # fmt: skip
_OPEN_CLIP: Final = ("open_clip_pytorch_model.bin", "open_clip_model.safetensors")


def local_folder(source: str, *, cached: bool = False) -> Path:
    """The folder of a checkpoint; a hub id is downloaded first (safetensors, configs and tokenizer only).

    Args:
      source: a folder, `OWNER/NAME` or `OWNER/NAME@REVISION`.
      cached: nothing is downloaded; a hub id must be in the cache.

    Raises:
      UserError: no such folder or id.
    """
    path = Path(source)
    return path if path.is_dir() else hub.download(source, allow=_DOWNLOADED, cached=cached)


def check_format(folder: Path) -> None:
    """Names the formats that look like a checkpoint of transformers and are not.

    Raises:
      UserError: the folder holds adapters alone, or is of open_clip.
    """
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise UserError(
            f"{folder}: holds adapters of PEFT alone; merge them into their base model first: "
            "PeftModel.from_pretrained(BASE, FOLDER).merge_and_unload().save_pretrained(NEW)"
        )
    if (
        any((folder / name).exists() for name in ("open_clip_config.json", *_OPEN_CLIP))
        and not (folder / "config.json").exists()
    ):
        raise UserError(
            f"{folder}: is a checkpoint of open_clip; give the same model as transformers has it (most are on "
            "the hub in both forms), or convert it by transformers' convert_clip_original_pytorch_to_hf.py"
        )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint.

    Raises:
      UserError: one is missing, or the weights are pickled.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        check_link(folder, index)
        names = read_json(index).get("weight_map")
        if not isinstance(names, dict) or not all(map(_is_shard, names.values())):
            raise UserError(
                f"{index}: its weight_map names something other than .safetensors files of its own "
                "folder; download the checkpoint again"
            )
        paths = sorted({folder / name for name in names.values()})
    else:
        paths = [folder / "model.safetensors"]
    missing = [path.name for path in paths if not path.exists()]
    if not missing:
        return paths
    others = sorted(file.name for file in folder.glob("model.*.safetensors"))
    if others and not index.exists():
        raise UserError(
            f"{folder}: has {others[0]} and no model.safetensors; rename that file, which is read in any "
            "precision, or download the whole checkpoint"
        )
    # Pickled files are not downloaded from the hub, so both messages name the remedy.
    convert = "convert them once where you trust them: CLIPModel.from_pretrained(OLD).save_pretrained(NEW)"
    pickled = [f.name for f in folder.iterdir() if f.suffix in (".bin", ".pt", ".pth", ".ckpt")]
    if pickled:
        raise UserError(
            f"{folder}: has only pickled weights ({pickled[0]}), which can run code when opened and are "
            f"refused; {convert}"
        )
    raise UserError(
        f"{folder}: {', '.join(missing)} is missing; download the checkpoint again, or, where it is "
        f"offered with pickled weights only, {convert}"
    )


def _is_shard(name: Any) -> bool:
    return (
        isinstance(name, str)
        and Path(name).name == name
        and name.endswith(".safetensors")
        and len(name) <= 255
        and name.isprintable()
    )


def read_json(path: Path) -> dict[str, Any]:
    """Reads a small JSON object.

    Raises:
      UserError: the file is missing, too large, or not a JSON object.
    """
    values = files.read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: not a JSON object")
    return values
