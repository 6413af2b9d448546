"""Batches: shapes, order by the seed alone, exact resume, shares, pairs, bad images, evaluation."""

from __future__ import annotations

import collections
import dataclasses
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packed_sets import METHODS, make_set

from data_pipeline.errors import UserError
from data_pipeline.examples import Batch, LoadUnit, caption_key_number
from data_pipeline.loader import EvalLoader, TrainIterator, TrainLoader, train_loader
from data_pipeline.mixture import Mixture
from data_pipeline.records import PackedSplit, write_packed_set
from data_pipeline.settings import AugmentSettings, DataSettings
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from jax_vlffd.vocabulary import VERDICTS, without_verdict

SIZE, LENGTH = 24, 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """12 reals, 24 fakes."""
    return make_set(tmp_path_factory.mktemp("one"), 12)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 reals, 6 fakes of another method."""
    return make_set(tmp_path_factory.mktemp("two"), 6, ("Face2Face",))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Tokenizer:
    split = PackedSplit(folder, "train")
    texts = [text for i in range(len(split)) for text in split[i].captions]
    return train_tokenizer(texts, 700, tmp_path_factory.mktemp("tokenizer"))


def _loader(tokenizer: Tokenizer, settings: DataSettings, **kwargs: int) -> TrainLoader:
    return train_loader(
        settings, image_size=SIZE, tokenizer=tokenizer, text_length=LENGTH, **kwargs
    )


def _settings(*folders: Path, **kwargs: Any) -> DataSettings:
    kwargs.setdefault("batch_size", 8)
    return DataSettings(train=tuple((str(f), 1.0) for f in folders), **kwargs)


def _take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return [next(batches) for _ in range(count)]


def _assert_equal(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_batch_is_as_promised(folder: Path, tokenizer: Tokenizer) -> None:
    batch = next(iter(_loader(tokenizer, _settings(folder))))
    expected = {
        "image": (np.uint8, (8, SIZE, SIZE, 3)),
        "tokens": (np.int32, (8, LENGTH)),
        "fused_tokens": (np.int32, (8, LENGTH)),
        "label": (np.int32, (8,)),
        "caption_key": (np.int32, (8,)),
        "valid": (np.bool_, (8,)),
        "index": (np.int64, (8,)),
        "bad": (np.int32, (8,)),
        "bad_index": (np.int64, (8,)),
    }
    assert {k: (v.dtype.type, v.shape) for k, v in batch.items()} == expected
    split = PackedSplit(folder, "train")
    for place, index in enumerate(batch["index"]):
        record = split[int(index)]
        assert batch["label"][place] == record.label
        assert batch["caption_key"][place] == caption_key_number(record.caption_key)
        assert batch["tokens"][place].tolist() in tokenizer.encode(record.captions, LENGTH).tolist()
    np.testing.assert_array_equal(batch["tokens"], batch["fused_tokens"])
    assert batch["valid"].all()


def test_an_epoch_holds_every_record_once_and_orders_differ(
    folder: Path, tokenizer: Tokenizer
) -> None:
    loader = _loader(tokenizer, _settings(folder, batch_size=12))
    assert loader.records_per_epoch == 36
    indices = np.concatenate([b["index"] for b in _take(iter(loader), 9)]).reshape(3, 36)
    for epoch in indices:
        assert sorted(epoch) == list(range(36))
    assert len({tuple(epoch) for epoch in indices}) == 3
    other = _loader(tokenizer, _settings(folder, batch_size=12, seed=1))
    assert list(next(iter(other))["index"]) != list(indices[0, :12])


def test_captions_and_augmentations_change_between_epochs(
    folder: Path, tokenizer: Tokenizer
) -> None:
    batches = _take(iter(_loader(tokenizer, _settings(folder, batch_size=36))), 8)
    tokens, images = collections.defaultdict(set), collections.defaultdict(set)
    for batch in batches:
        for place, index in enumerate(batch["index"]):
            tokens[index].add(batch["tokens"][place].tobytes())
            images[index].add(batch["image"][place].tobytes())
    assert np.mean([len(v) for v in tokens.values()]) > 1.9  # two captions each
    assert np.mean([len(v) for v in images.values()]) > 5


def test_workers_do_not_change_the_batches(
    folder: Path, second: Path, tokenizer: Tokenizer
) -> None:
    settings = _settings(folder, second, paired=True, fused_caption="shuffled")
    expected = _take(iter(_loader(tokenizer, settings)), 5)
    loader = _loader(tokenizer, dataclasses.replace(settings, workers=2))
    iterator = iter(loader)
    got = _take(iterator, 3)
    state = iterator.get_state()
    got += _take(iterator, 2)
    _assert_equal(got, expected)
    # The position was saved with two workers; it continues with none.
    resumed = iter(_loader(tokenizer, settings))
    resumed.set_state(json.loads(json.dumps(state)))
    _assert_equal(_take(resumed, 2), expected[3:])
    iterator.close()


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "extra",
    [{}, {"paired": True}, {"balance": 0.25, "fused_caption": "shuffled"}],
    ids=["plain", "paired", "balanced"],
)
def test_processes_share_the_same_global_batch(
    folder: Path, second: Path, tokenizer: Tokenizer, count: int, extra: dict[str, Any]
) -> None:
    settings = _settings(folder, second, **extra)
    expected = _take(iter(_loader(tokenizer, settings)), 4)
    shares = [
        _take(iter(_loader(tokenizer, settings, process_index=p, process_count=count)), 4)
        for p in range(count)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    _assert_equal(joined, expected)


def test_resume_is_exact_at_every_step(folder: Path, tokenizer: Tokenizer) -> None:
    settings = _settings(folder)
    expected = _take(iter(_loader(tokenizer, settings)), 7)
    iterator = iter(_loader(tokenizer, settings))
    for step in (0, 3, 6, 2):
        iterator.set_state(
            {
                "step": step,
                "seen": 0,
                "bad": 0,
                "fingerprint": _loader(tokenizer, settings).fingerprint,
            }
        )
        _assert_equal(_take(iterator, 1), expected[step : step + 1])
    assert iterator.get_state()["step"] == 3


def test_grain_saves_and_restores_the_iterator(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import orbax.checkpoint as ocp
    from grain.checkpoint import CheckpointRestore, CheckpointSave

    loader = _loader(tokenizer, _settings(folder))
    iterator = iter(loader)
    _take(iterator, 3)
    with ocp.CheckpointManager(tmp_path.resolve()) as manager:
        manager.save(3, args=ocp.args.Composite(data=CheckpointSave(iterator)))
        manager.wait_until_finished()
        expected = _take(iterator, 2)
        fresh = iter(_loader(tokenizer, _settings(folder)))
        manager.restore(3, args=ocp.args.Composite(data=CheckpointRestore(fresh)))
    _assert_equal(_take(fresh, 2), expected)


def test_a_position_of_other_data_is_refused(
    folder: Path, second: Path, tokenizer: Tokenizer
) -> None:
    state = iter(_loader(tokenizer, _settings(folder))).get_state()
    for other in (
        _settings(folder, seed=5),
        _settings(folder, batch_size=4),
        _settings(folder, paired=True),
        _settings(second),
    ):
        with pytest.raises(UserError, match="belongs to other data"):
            iter(_loader(tokenizer, other)).set_state(state)
    changed = _settings(folder, workers=3, prefetch=7, augment=AugmentSettings.none())
    iter(_loader(tokenizer, changed)).set_state(state)


def test_pairs_come_together(folder: Path, second: Path, tokenizer: Tokenizer) -> None:
    settings = _settings(folder, second, paired=True, augment=AugmentSettings(
        flip=0.5, resize_crop=1.0, jpeg=0, blur=0, noise=0, color=0, cutout=0,
    ))  # fmt: skip
    loader = _loader(tokenizer, settings)
    assert loader.records_per_epoch == 2 * (24 + 6)
    splits = [PackedSplit(f, "train") for f in (folder, second)]
    for batch in _take(iter(loader), 8):
        np.testing.assert_array_equal(batch["label"], [1, 0] * 4)
        for fake, real in batch["index"].reshape(-1, 2):
            split, start = (splits[0], 0) if fake < 36 else (splits[1], 36)
            assert split[int(fake - start)].pair == split[int(real - start)].id
        # The same flip and crop: outside the forged mouth a fake looks like its real.
        difference = np.abs(batch["image"][0::2].astype(int) - batch["image"][1::2])
        assert np.median(difference) <= 6


@pytest.mark.parametrize("balance", [0.25, 0.5, 0.9])
def test_balance_holds_in_every_batch(folder: Path, tokenizer: Tokenizer, balance: float) -> None:
    loader = _loader(tokenizer, _settings(folder, batch_size=20, balance=balance))
    for batch in _take(iter(loader), 6):
        assert abs(batch["label"].mean() - balance) <= 0.051


def test_weights_hold(folder: Path, second: Path, tokenizer: Tokenizer) -> None:
    settings = DataSettings(train=((str(folder), 1.0), (str(second), 3.0)), batch_size=20)
    for batch in _take(iter(_loader(tokenizer, settings)), 6):
        assert abs((batch["index"] >= 36).mean() - 0.75) <= 0.051
    # The order of sets is the order of numbers; a message names the record's own folder.
    assert str(second) in _loader(tokenizer, settings).describe(36)


def test_methods_restrict_fakes_and_keep_reals(folder: Path, tokenizer: Tokenizer) -> None:
    loader = _loader(tokenizer, _settings(folder, batch_size=24, methods=("FaceSwap",)))
    assert loader.records_per_epoch == 24
    split = PackedSplit(folder, "train")
    methods = collections.Counter(split[int(i)].method for i in next(iter(loader))["index"])
    assert methods == {"FaceSwap": 12, "real": 12}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("Nonesuch",)}, r"no fakes of method 'Nonesuch'.*it has: Deepfakes, FaceSwap"),
        ({"batch_size": 10}, "does not divide among 4 processes: take 8 or 12"),
        ({"batch_size": 4, "paired": True}, "whole pairs each: take 8"),
    ],
)
def test_unsuitable_settings_are_told(
    folder: Path, tokenizer: Tokenizer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _loader(tokenizer, _settings(folder, **settings), process_count=4)


def test_unsuitable_sets_are_told(
    folder: Path, second: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="at least one"):
        _loader(tokenizer, DataSettings())
    with pytest.raises(UserError, match="does not exist"):
        _loader(tokenizer, _settings(tmp_path / "gone"))
    test_only = make_set(tmp_path, 1, split="test")
    with pytest.raises(UserError, match=r"no records in split 'train' \(it has: test\)"):
        _loader(tokenizer, _settings(test_only))
    mixed = _settings(folder, second, methods=METHODS, balance=0.5)
    with pytest.raises(UserError, match="has no fakes of the methods Deepfakes, FaceSwap"):
        _loader(tokenizer, mixed)


def _texts(tokens: np.ndarray, tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    known = {row.tobytes(): text for row, text in zip(
        tokenizer.encode(texts, LENGTH), texts, strict=True
    )}  # fmt: skip
    return [known[row.tobytes()] for row in tokens]


def test_caption_choices_and_fused_views(folder: Path, tokenizer: Tokenizer) -> None:
    split = PackedSplit(folder, "train")
    records = [split[i] for i in range(len(split))]
    every = [c for r in records for c in r.captions]

    batch = next(iter(_loader(tokenizer, _settings(folder, captions="raw"))))
    raw = [split[int(i)].raw_caption for i in batch["index"]]
    np.testing.assert_array_equal(batch["tokens"], tokenizer.encode(raw, LENGTH))

    batch = next(iter(_loader(tokenizer, _settings(folder, captions="label_only"))))
    verdicts = [VERDICTS[label] for label in batch["label"]]
    np.testing.assert_array_equal(batch["tokens"], tokenizer.encode(verdicts, LENGTH))
    assert len(set(batch["caption_key"])) == len(set(batch["label"]))

    batch = next(iter(_loader(tokenizer, _settings(folder, fused_caption="no_verdict"))))
    neutral = [without_verdict(text) for text in _texts(batch["tokens"], tokenizer, every)]
    np.testing.assert_array_equal(batch["fused_tokens"], tokenizer.encode(neutral, LENGTH))


def test_shuffled_captions_tell_the_label_and_nothing_else(
    folder: Path, tokenizer: Tokenizer
) -> None:
    """The control of the alignment: the verdict is the record's, the rest is another's."""
    settings = _settings(folder, batch_size=32, paired=True, captions="shuffled")
    split = PackedSplit(folder, "train")
    records = [split[row] for row in range(len(split))]
    fakes = {record.id: record.captions for record in records if record.label}
    reals = {text for record in records if not record.label for text in record.captions}
    mixture = Mixture(settings)
    load = LoadUnit(mixture, settings, SIZE)
    strangers = 0
    for number in range(24):
        fake, real = load((0, number), np.random.default_rng(number))
        assert real.caption in reals
        owner = next(name for name, captions in fakes.items() if fake.caption in captions)
        strangers += owner != records[fake.number].id
        assert fake.fused == fake.caption
    assert strangers > 15


def test_shuffled_view_does_not_tell_the_label(folder: Path, tokenizer: Tokenizer) -> None:
    """Even where labels alternate in the batch, another record's caption says nothing of them."""
    split = PackedSplit(folder, "train")
    every = [c for i in range(len(split)) for c in split[i].captions]
    settings = _settings(folder, batch_size=32, paired=True, fused_caption="shuffled")
    agree = []
    for batch in _take(iter(_loader(tokenizer, settings)), 12):
        said = np.array(["fake" in t for t in _texts(batch["fused_tokens"], tokenizer, every)])
        agree.append(said == batch["label"])
    assert abs(np.mean(agree) - 0.5) < 0.09  # 384 draws: more than three standard errors


def test_a_set_without_captions_is_told(folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    record = dataclasses.replace(PackedSplit(folder, "train")[0], captions=())
    bare = write_packed_set(tmp_path, {"train": [lambda: iter([(record, -1)])]})
    settings = _settings(bare, batch_size=1)
    with pytest.raises(UserError, match=r"'Deepfakes_0/real' has no caption: annotate"):
        next(iter(_loader(tokenizer, settings)))
    next(iter(_loader(tokenizer, dataclasses.replace(settings, captions="label_only"))))


def test_tokens_keep_their_end(folder: Path, tokenizer: Tokenizer) -> None:
    loader = train_loader(_settings(folder), image_size=SIZE, tokenizer=tokenizer, text_length=6)
    tokens = next(iter(loader))["tokens"]
    assert (tokens[:, -1] == tokenizer.eos_id).all()


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """10 reals with a fake each; the fakes of 2 and 5 do not decode."""
    return make_set(tmp_path_factory.mktemp("bad"), 10, ("Deepfakes",), bad=(2, 5))


@pytest.mark.parametrize("paired", [False, True])
def test_bad_images_are_replaced_and_counted(
    damaged: Path, tokenizer: Tokenizer, paired: bool
) -> None:
    settings = _settings(damaged, batch_size=20, paired=paired, max_bad_share=1.0)
    loader = _loader(tokenizer, settings)
    iterator = iter(loader)
    batches = _take(iterator, 4)
    _assert_equal(_take(iter(_loader(tokenizer, settings)), 4), batches)
    bad = {
        i
        for i in range(20)
        if PackedSplit(damaged, "train")[i].id in ("Deepfakes_2", "Deepfakes_5")
    }
    assert not bad & set(np.concatenate([b["index"] for b in batches]))
    # Each epoch meets both once, and a replacement may meet one again.
    assert all(b["bad"].sum() >= 2 for b in batches)
    assert {int(b["bad_index"].max()) for b in batches} <= bad
    assert iterator.bad == sum(b["bad"].sum() for b in batches) == iterator.get_state()["bad"]
    assert iterator.seen == 80 + iterator.bad
    if paired:
        assert all((b["label"] == [1, 0] * 10).all() for b in batches)


def test_too_many_bad_images_stop_the_run(damaged: Path, tokenizer: Tokenizer) -> None:
    iterator = iter(_loader(tokenizer, _settings(damaged, batch_size=20, max_bad_share=0.01)))
    with pytest.raises(UserError, match=r"images do not decode.*Deepfakes_[25].*max_bad_share"):
        _take(iterator, 100)
    # 1 % of 1000 are put up with before the share is judged; every epoch of 20 meets 2 of them.
    assert 3 <= iterator.step <= 6
    with pytest.raises(UserError):
        next(iter(_loader(tokenizer, _settings(damaged, batch_size=20, max_bad_share=0.0))))


def test_a_set_that_never_decodes_is_told(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = make_set(tmp_path, 2, ("Deepfakes",), bad=(0, 1))
    settings = _settings(folder, paired=True, max_bad_share=1.0)
    with pytest.raises(UserError, match="in a row do not decode"):
        next(iter(_loader(tokenizer, settings)))


def test_errors_in_a_worker_reach_the_user(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = make_set(tmp_path, 2, ("Deepfakes",), bad=(0, 1))
    settings = _settings(folder, paired=True, max_bad_share=1.0, workers=1)
    iterator = iter(_loader(tokenizer, settings))
    with pytest.raises(UserError, match="in a row do not decode"):
        next(iterator)
    iterator.close()


def test_pickled_mixture_stays_small(folder: Path) -> None:
    """Workers get folders and settings, not the row numbers: ten million records cost no more."""
    mixture = Mixture(_settings(folder))
    assert len(pickle.dumps(mixture)) < 10_000
    assert pickle.loads(pickle.dumps(mixture)).streams[0].unit(3) == (3,)


def _evaluation(
    folder: Path, tokenizer: Tokenizer, split: str = "train", **kwargs: Any
) -> EvalLoader:
    kwargs.setdefault("batch_size", 8)
    return EvalLoader(
        folder, split, image_size=SIZE, tokenizer=tokenizer, text_length=LENGTH, **kwargs
    )


@pytest.mark.parametrize("count", [1, 2, 4])
def test_evaluation_sees_every_record_once(folder: Path, tokenizer: Tokenizer, count: int) -> None:
    shares = [
        _evaluation(folder, tokenizer, process_index=p, process_count=count) for p in range(count)
    ]
    batches = [list(share) for share in shares]
    assert {len(b) for b in batches} == {len(shares[0])} == {5}  # 36 records, 8 a step
    flat = [batch for share in batches for batch in share]
    assert all(len(b["label"]) == 8 // count for b in flat)
    index = np.concatenate([b["index"] for b in flat])
    valid = np.concatenate([b["valid"] for b in flat])
    assert sorted(index[valid]) == list(range(36))
    assert (index[~valid] == -1).all()
    _assert_equal(list(shares[0]), batches[0])  # a second pass is the same


def test_evaluation_takes_first_caption_and_plain_view(folder: Path, tokenizer: Tokenizer) -> None:
    loader = _evaluation(folder, tokenizer, methods=("FaceSwap",), batch_size=24)
    batch = next(iter(loader))
    records = list(loader.metadata(batch["index"]))
    assert {r.method for r in records} == {"real", "FaceSwap"}
    assert loader.records == 24
    np.testing.assert_array_equal(
        batch["tokens"], tokenizer.encode([r.captions[0] for r in records], LENGTH)
    )
    assert [r.label for r in records] == batch["label"].tolist()
    assert not any(r.image for r in records)
    dark = _evaluation(folder, tokenizer, batch_size=24, corrupt=_darken)
    assert (next(iter(dark))["image"] == next(iter(_evaluation(
        folder, tokenizer, batch_size=24)))["image"] // 2).all()  # fmt: skip


def _darken(image: np.ndarray) -> np.ndarray:
    return image // 2


def test_evaluation_with_workers_that_start_no_device(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grain imports JAX in a worker; a backend started there would take the accelerator."""
    plain = list(_evaluation(folder, tokenizer))
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")
    _assert_equal(list(_evaluation(folder, tokenizer, workers=1)), plain)


def test_evaluation_marks_what_does_not_decode(damaged: Path, tokenizer: Tokenizer) -> None:
    loader = _evaluation(damaged, tokenizer)
    batches = list(loader)
    bad = np.concatenate([b["bad"] for b in batches]).astype(bool)
    index = np.concatenate([b["index"] for b in batches])
    valid = np.concatenate([b["valid"] for b in batches])
    assert [r.id for r in loader.metadata(index[bad])] == ["Deepfakes_2", "Deepfakes_5"]
    assert not valid[bad].any()
    assert valid.sum() == 18


def test_evaluation_errors(folder: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no records in split 'validation'"):
        _evaluation(folder, tokenizer, "validation")
    with pytest.raises(UserError, match="does not divide among 3"):
        _evaluation(folder, tokenizer, process_count=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": (("a", 0),)}, "weight 0: it must be above 0"),
        ({"train": ("a",)}, "each entry is"),
        ({"validation": "a"}, "must be a tuple"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"balance": 1.0}, "balance is 1.0"),
        ({"balance": 0.5, "paired": True}, "cannot be set with"),
        ({"batch_size": 7, "paired": True}, "take 6 or 8"),
        ({"fused_caption": "none"}, "full, no_verdict, shuffled"),
        ({"captions": "best"}, "all, raw, label_only"),
        ({"max_bad_share": 2}, "between 0.0 and 1.0"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataSettings(**change)


@pytest.mark.parametrize(
    "change",
    [{"flip": 1.1}, {"jpeg_quality": (0, 50)}, {"blur_sigma": (2, 1)}, {"resize_crop_side": 0.5}],
)
def test_augmentation_settings_are_checked(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"augment.{next(iter(change))}"):
        AugmentSettings(**change)


def test_iterator_is_grains(folder: Path, tokenizer: Tokenizer) -> None:
    import grain

    assert isinstance(iter(_loader(tokenizer, _settings(folder))), TrainIterator)
    assert issubclass(TrainIterator, grain.DatasetIterator)
