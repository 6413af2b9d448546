"""Loaders of small drawn sets, for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.loading.examples import Batch
from data_pipeline.loading.loader import TrainLoader
from data_pipeline.loading.settings import DataSettings
from data_pipeline.loading.tokenizer import Tokenizer, train_tokenizer
from data_pipeline.packed.reader import PackedSplit

SIZE, LENGTH = 24, 20


def make_tokenizer(packed: Path, folder: Path) -> Tokenizer:
    """Trained on the captions of a packed set."""
    split = PackedSplit(packed, "train")
    texts = [text for i in range(len(split)) for text in split[i].captions]
    return train_tokenizer(texts, 700, folder)


def make_loader(tokenizer: Tokenizer, settings: DataSettings, **kwargs: int) -> TrainLoader:
    return TrainLoader(settings, image_size=SIZE, tokenizer=tokenizer, text_length=LENGTH, **kwargs)


def data_settings(*folders: Path, **kwargs: Any) -> DataSettings:
    kwargs.setdefault("batch_size", 8)
    return DataSettings(train=tuple((str(f), 1.0) for f in folders), **kwargs)


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
