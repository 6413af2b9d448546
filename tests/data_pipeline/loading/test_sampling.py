"""Which records come when: epochs, pairs, balance, weights, methods, and sets that do not serve."""

from __future__ import annotations

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.loading.sampling import Mixture
from data_pipeline.loading.settings import AugmentSettings, DataSettings
from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.writer import write_packed_set
from jax_vlffd.errors import UserError
from tests.support.loading import data_settings, make_loader, take
from tests.support.packed_sets import METHODS, make_set


def test_an_epoch_holds_every_record_once_and_orders_differ(
    folder: Path, tokenizer: Tokenizer
) -> None:
    loader = make_loader(tokenizer, data_settings(folder, batch_size=12))
    assert loader.records_per_epoch == 36
    indices = np.concatenate([b["index"] for b in take(iter(loader), 9)]).reshape(3, 36)
    for epoch in indices:
        assert sorted(epoch) == list(range(36))
    assert len({tuple(epoch) for epoch in indices}) == 3
    other = make_loader(tokenizer, data_settings(folder, batch_size=12, seed=1))
    assert list(next(iter(other))["index"]) != list(indices[0, :12])


def test_pairs_come_together(folder: Path, second: Path, tokenizer: Tokenizer) -> None:
    settings = data_settings(folder, second, paired=True, augment=AugmentSettings(
        flip=0.5, resize_crop=1.0, jpeg=0, blur=0, noise=0, color=0, cutout=0,
    ))  # fmt: skip
    loader = make_loader(tokenizer, settings)
    assert loader.records_per_epoch == 2 * (24 + 6)
    splits = [PackedSplit(f, "train") for f in (folder, second)]
    for batch in take(iter(loader), 8):
        np.testing.assert_array_equal(batch["label"], [1, 0] * 4)
        for fake, real in batch["index"].reshape(-1, 2):
            split, start = (splits[0], 0) if fake < 36 else (splits[1], 36)
            assert split[int(fake - start)].pair == split[int(real - start)].id
        # The same flip and crop: outside the forged mouth a fake looks like its real.
        difference = np.abs(batch["image"][0::2].astype(int) - batch["image"][1::2])
        assert np.median(difference) <= 6


@pytest.mark.parametrize("balance", [0.25, 0.5, 0.9])
def test_balance_holds_in_every_batch(folder: Path, tokenizer: Tokenizer, balance: float) -> None:
    loader = make_loader(tokenizer, data_settings(folder, batch_size=20, balance=balance))
    for batch in take(iter(loader), 6):
        assert abs(batch["label"].mean() - balance) <= 0.051


def test_weights_hold(folder: Path, second: Path, tokenizer: Tokenizer) -> None:
    settings = DataSettings(train=((str(folder), 1.0), (str(second), 3.0)), batch_size=20)
    for batch in take(iter(make_loader(tokenizer, settings)), 6):
        assert abs((batch["index"] >= 36).mean() - 0.75) <= 0.051
    # The order of sets is the order of numbers; a message names the record's own folder.
    assert str(second) in make_loader(tokenizer, settings).describe(36)


def test_methods_restrict_fakes_and_keep_reals(folder: Path, tokenizer: Tokenizer) -> None:
    loader = make_loader(tokenizer, data_settings(folder, batch_size=24, methods=("FaceSwap",)))
    assert loader.records_per_epoch == 24
    split = PackedSplit(folder, "train")
    methods = collections.Counter(split[int(i)].method for i in next(iter(loader))["index"])
    assert methods == {"FaceSwap": 12, "real": 12}


def test_unsuitable_sets_are_reported(
    folder: Path, second: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="at least one"):
        make_loader(tokenizer, DataSettings())
    with pytest.raises(UserError, match="does not exist"):
        make_loader(tokenizer, data_settings(tmp_path / "gone"))
    test_only = make_set(tmp_path, 1, split="test")
    with pytest.raises(UserError, match=r"no records in split 'train' \(it has: test\)"):
        make_loader(tokenizer, data_settings(test_only))
    mixed = data_settings(folder, second, methods=METHODS, balance=0.5)
    with pytest.raises(UserError, match="has no fakes of the methods Deepfakes, FaceSwap"):
        make_loader(tokenizer, mixed)


@pytest.mark.parametrize(("label", "missing"), [(0, "fakes"), (1, "reals")])
def test_sets_of_one_label_alone_are_refused_and_together_taken(
    label: int, missing: str, folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    split = PackedSplit(folder, "train")
    rows = np.flatnonzero(split.index["label"] == label)[:3]
    alone = write_packed_set(
        tmp_path, {"train": [lambda: iter([(split[int(row)], -1) for row in rows])]}
    )
    with pytest.raises(UserError, match=f"has no {missing} in split 'train'"):
        make_loader(tokenizer, data_settings(alone, batch_size=2))
    make_loader(tokenizer, data_settings(folder, alone, batch_size=2))


def test_pickled_mixture_stays_small(folder: Path) -> None:
    """Workers get folders and settings, not the row numbers: ten million records cost no more."""
    mixture = Mixture(data_settings(folder))
    assert len(pickle.dumps(mixture)) < 10_000
    assert pickle.loads(pickle.dumps(mixture)).streams[0].unit(3) == (3,)
