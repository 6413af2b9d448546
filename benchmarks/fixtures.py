"""Packed sets for the benches: of drawn or existing files, of tiny records, and large ones made of links."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data_pipeline.loading.tokenizer import Tokenizer


def draw_files(folder: Path, count: int, side: int) -> list[Path]:
    """Draws faces with sensor noise as JPEG files of about the size of photographs."""
    import numpy as np

    from data_pipeline.synthetic import forgeries
    from data_pipeline.synthetic.anatomy import draw_identity
    from data_pipeline.synthetic.faces import draw_face

    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    files = []
    for number in range(count):
        image, _ = draw_face(draw_identity(rng), rng, side)
        noisy = np.clip(image + rng.normal(0, 5, image.shape), 0, 255).astype(np.uint8)
        files.append(folder / f"{number:05}.jpg")
        files[-1].write_bytes(forgeries.encode_jpeg(noisy, 90))
    return files


def copy_files(source: Path, folder: Path, side: int | None) -> list[Path]:
    """Copies an even number of JPEG files, unchanged or as squares of one side at quality 95.

    Raises:
      UserError: the source has fewer than four.
    """
    from jax_vlffd.errors import UserError
    from jax_vlffd.preprocessing import square_view

    originals = sorted(source.rglob("*.jpg"))
    if len(originals) < 4:
        raise UserError(f"{source} has {len(originals)} files *.jpg; give at least 4")
    folder.mkdir(parents=True)
    files = [folder / f"{number:05}.jpg" for number in range(len(originals) // 2 * 2)]
    for original, file in zip(originals, files, strict=False):
        if side is None:
            shutil.copyfile(original, file)
            continue
        from data_pipeline.core.images import decode_image
        from data_pipeline.synthetic import forgeries

        image = decode_image(original.read_bytes())
        file.write_bytes(forgeries.encode_jpeg(square_view(image, side), 95))
    return files


def pack_files(folder: Path, jpegs: Sequence[Path]) -> None:
    """Packs the files as pairs of real and fake, and trains a tokenizer on their captions."""
    from data_pipeline.loading.tokenizer import train_tokenizer
    from data_pipeline.packed.builder import pack

    lines: list[dict[str, Any]] = []
    for number, (real, fake) in enumerate(zip(jpegs[::2], jpegs[1::2], strict=False)):
        region = ("mouth", "nose", "eyes", "face")[number % 4]
        caption = f"This is a fake face. The {region} is blurred, and its color is off."
        lines.append(
            {
                "id": f"{number:05}", "real": str(real), "fake": str(fake), "label": 1,
                "regions": {region: {"forged": True, "score": 1.0, "types": ["blur", "color"]}},
                "raw_caption": caption, "caption": caption, "source": "raw", "error": None,
                "real_captions": ["This is a real face. Nothing in it is altered."],
                "method": "drawn", "dataset": "drawn", "video": f"{number:05}", "frame": "0",
                "split": "train",
            }
        )  # fmt: skip
    file = folder / "annotations.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    pack([file], folder / "packed")
    train_tokenizer((line["caption"] for line in lines), 600, folder / "tokenizer")


def tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of `pack_files`."""
    from data_pipeline.loading.tokenizer import Tokenizer

    return Tokenizer.load(folder / "tokenizer")


def pack_small(folder: Path, count: int) -> Path:
    """Packs one shard of `count` records with images of a few hundred bytes, half of them fakes."""
    import numpy as np

    from data_pipeline.packed.record import Record
    from data_pipeline.packed.writer import write_packed_set
    from data_pipeline.synthetic import forgeries
    from jax_vlffd.vocabulary import REGIONS, TYPES

    rng = np.random.default_rng(0)
    images = [
        forgeries.encode_jpeg(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8), 80)
        for _ in range(64)
    ]
    no_flags = np.zeros(len(REGIONS), np.int64), np.zeros((len(REGIONS), len(TYPES)), np.int64)

    def shard() -> Any:
        for number in range(count):
            fake = number % 2
            real = f"{number - fake:08}"
            caption = f"This is a {('real', 'fake')[fake]} face."
            yield (
                Record(
                    f"{number:08}", images[number % 64], fake, "small", ("real", "drawn")[fake],
                    real, "0", real if fake else "", (caption,), caption, caption, *no_flags,
                ),
                number - 1 if fake else -1,
            )  # fmt: skip

    aside = folder.with_suffix(".aside")
    aside.mkdir(parents=True)
    shutil.move(write_packed_set(aside, {"train": [shard]}), folder)
    return folder


def multiply(source: Path, folder: Path, copies: int) -> Path:
    """Makes a packed set of `copies` hard links to one shard, which need no disk space."""
    import numpy as np

    from jax_vlffd import checksums

    folder.mkdir()
    (shard,) = source.glob("*.array_record*")
    for number in range(copies):
        name = shard.name.replace("00000-of-00001", f"{number:05}-of-{copies:05}")
        os.link(shard, folder / name)
    info = json.loads((source / "dataset_info.json").read_text("utf-8"))
    (split,) = info["splits"]
    split["shardLengths"] *= copies
    split["numBytes"] = str(int(split["numBytes"]) * copies)
    (folder / "dataset_info.json").write_text(json.dumps(info), "utf-8")
    shutil.copy(source / "features.json", folder)
    (folder / "index").mkdir()
    index = json.loads((source / "index" / "index.json").read_text("utf-8"))
    rows = np.load(source / "index" / "train.npy")
    all_rows = np.lib.format.open_memmap(
        folder / "index" / "train.npy", "w+", rows.dtype, (len(rows) * copies,)
    )
    for number in range(copies):
        part = all_rows[number * len(rows) : (number + 1) * len(rows)]
        part[:] = rows
        part["pair"][rows["pair"] >= 0] += number * len(rows)
    all_rows.flush()
    index["records"]["train"] = len(all_rows)
    (folder / "index" / "index.json").write_text(json.dumps(index), "utf-8")
    checksums.write(folder, ("index",))  # with which the index is compared when the set is opened
    return folder
