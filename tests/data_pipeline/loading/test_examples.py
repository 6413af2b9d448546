"""Examples: their words, their augmentations, and pictures that do not decode."""

from __future__ import annotations

import collections
import dataclasses
from pathlib import Path

import grain
import numpy as np
import pytest

from data_pipeline.loading.examples import Example, LoadBatch, LoadUnit
from data_pipeline.loading.loader import TrainLoader
from data_pipeline.loading.sampling import Mixture
from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed.reader import PackedSplit
from data_pipeline.packed.writer import write_packed_set
from jax_vlffd.errors import UserError
from jax_vlffd.vocabulary import VERDICTS, without_verdict
from tests.support.loading import LENGTH, SIZE, assert_equal, data_settings, make_loader, take
from tests.support.packed_sets import make_set


def test_captions_and_augmentations_change_between_epochs(
    folder: Path, tokenizer: Tokenizer
) -> None:
    batches = take(iter(make_loader(tokenizer, data_settings(folder, batch_size=36))), 8)
    tokens, images = collections.defaultdict(set), collections.defaultdict(set)
    for batch in batches:
        for place, index in enumerate(batch["index"]):
            tokens[index].add(batch["tokens"][place].tobytes())
            images[index].add(batch["image"][place].tobytes())
    assert np.mean([len(v) for v in tokens.values()]) > 1.9  # two captions each
    assert np.mean([len(v) for v in images.values()]) > 5


def _texts(tokens: np.ndarray, tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    known = {row.tobytes(): text for row, text in zip(
        tokenizer.encode(texts, LENGTH), texts, strict=True
    )}  # fmt: skip
    return [known[row.tobytes()] for row in tokens]


def test_caption_choices_and_fused_views(folder: Path, tokenizer: Tokenizer) -> None:
    split = PackedSplit(folder, "train")
    records = [split[i] for i in range(len(split))]
    every = [c for r in records for c in r.captions]

    batch = next(iter(make_loader(tokenizer, data_settings(folder, captions="raw"))))
    raw = [split[int(i)].raw_caption for i in batch["index"]]
    np.testing.assert_array_equal(batch["tokens"], tokenizer.encode(raw, LENGTH))

    batch = next(iter(make_loader(tokenizer, data_settings(folder, captions="label_only"))))
    verdicts = [VERDICTS[label] for label in batch["label"]]
    np.testing.assert_array_equal(batch["tokens"], tokenizer.encode(verdicts, LENGTH))
    assert len(set(batch["caption_key"])) == len(set(batch["label"]))

    batch = next(iter(make_loader(tokenizer, data_settings(folder, fused_caption="no_verdict"))))
    neutral = [without_verdict(text) for text in _texts(batch["tokens"], tokenizer, every)]
    np.testing.assert_array_equal(batch["fused_tokens"], tokenizer.encode(neutral, LENGTH))


def test_shuffled_captions_tell_the_label_and_nothing_else(
    folder: Path, tokenizer: Tokenizer
) -> None:
    """The control of the alignment: the verdict is the record's, the rest is another's."""
    settings = data_settings(folder, batch_size=32, paired=True, captions="shuffled")
    split = PackedSplit(folder, "train")
    records = [split[row] for row in range(len(split))]
    fakes = {record.id: record.captions for record in records if record.label}
    reals = {text for record in records if not record.label for text in record.captions}
    mixture = Mixture(settings)
    load = LoadUnit(mixture, settings, SIZE)
    strangers = 0
    for number in range(24):
        fake, real = load(number, np.random.default_rng(number))
        assert real.caption in reals
        owner = next(name for name, captions in fakes.items() if fake.caption in captions)
        strangers += owner != records[fake.number].id
        assert fake.fused == fake.caption
    assert strangers > 15


def test_shuffled_view_does_not_tell_the_label(folder: Path, tokenizer: Tokenizer) -> None:
    """Even where labels alternate in the batch, another record's caption says nothing of them."""
    split = PackedSplit(folder, "train")
    every = [c for i in range(len(split)) for c in split[i].captions]
    settings = data_settings(folder, batch_size=32, paired=True, fused_caption="shuffled")
    agree = []
    for batch in take(iter(make_loader(tokenizer, settings)), 12):
        said = np.array(["fake" in t for t in _texts(batch["fused_tokens"], tokenizer, every)])
        agree.append(said == batch["label"])
    assert abs(np.mean(agree) - 0.5) < 0.09  # 384 draws: more than three standard errors


def test_the_draws_of_a_unit_follow_from_the_seed_and_its_number(tokenizer: Tokenizer) -> None:
    """They are those of Grain's own `random_map`, in whatever batch the unit comes."""

    def load(unit: int, rng: np.random.Generator) -> list[Example]:
        first, image = int(rng.integers(1 << 31)), rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        return [Example(image, "", "", 0, first, int(rng.integers(1 << 40)) ^ unit)]

    start = 1 << 40  # far into an endless run
    batch = LoadBatch(
        range(1 << 50),
        load,
        count=3,
        size=3,
        image_size=4,
        tokenizer=tokenizer,
        text_length=6,
        seed=11,
    )(start // 3)
    alone = grain.MapDataset.range(1 << 50).random_map(load, seed=11)
    for place in range(3):
        [expected] = alone[start // 3 * 3 + place]
        np.testing.assert_array_equal(batch["image"][place], expected.image)
        assert batch["caption_key"][place] == expected.caption_key
        assert batch["index"][place] == expected.number


def test_a_set_without_captions_is_reported(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    split = PackedSplit(folder, "train")
    rows = [int((split.index["label"] == label).argmax()) for label in (0, 1)]
    records = [(dataclasses.replace(split[row], captions=()), -1) for row in rows]
    bare = write_packed_set(tmp_path, {"train": [lambda: iter(records)]})
    settings = data_settings(bare, batch_size=1)
    with pytest.raises(UserError, match=r"record 'Deepfakes_0.* has no caption: annotate"):
        next(iter(make_loader(tokenizer, settings)))
    next(iter(make_loader(tokenizer, dataclasses.replace(settings, captions="label_only"))))


def test_tokens_keep_their_end(folder: Path, tokenizer: Tokenizer) -> None:
    loader = TrainLoader(data_settings(folder), image_size=SIZE, tokenizer=tokenizer, text_length=6)
    tokens = next(iter(loader))["tokens"]
    assert (tokens[:, -1] == tokenizer.eos_id).all()


@pytest.mark.parametrize("paired", [False, True])
def test_bad_images_are_replaced_and_counted(
    damaged: Path, tokenizer: Tokenizer, paired: bool
) -> None:
    settings = data_settings(damaged, batch_size=20, paired=paired, max_bad_share=1.0)
    loader = make_loader(tokenizer, settings)
    iterator = iter(loader)
    batches = take(iterator, 4)
    assert_equal(take(iter(make_loader(tokenizer, settings)), 4), batches)
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
    iterator = iter(
        make_loader(tokenizer, data_settings(damaged, batch_size=20, max_bad_share=0.01))
    )
    with pytest.raises(UserError, match=r"images do not decode.*Deepfakes_[25].*max_bad_share"):
        take(iterator, 100)
    # 1 % of 1000 are put up with before the share is judged; every epoch of 20 meets 2 of them.
    assert 3 <= iterator.step <= 6
    with pytest.raises(UserError):
        next(iter(make_loader(tokenizer, data_settings(damaged, batch_size=20, max_bad_share=0.0))))


def test_a_set_that_never_decodes_is_reported(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = make_set(tmp_path, 2, ("Deepfakes",), bad=(0, 1))
    settings = data_settings(folder, paired=True, max_bad_share=1.0)
    with pytest.raises(UserError, match="in a row do not decode"):
        next(iter(make_loader(tokenizer, settings)))
