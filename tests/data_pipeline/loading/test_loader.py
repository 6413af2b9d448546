"""Batches: shapes, workers, exact resume, shares of processes, evaluation."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.loading import loader
from data_pipeline.loading.examples import caption_key_number
from data_pipeline.loading.loader import EvalLoader, TrainIterator
from data_pipeline.loading.settings import AugmentSettings
from data_pipeline.loading.tokenizer import Tokenizer
from data_pipeline.packed.reader import PackedSplit
from jax_vlffd.errors import UserError
from tests.support.loading import LENGTH, SIZE, assert_equal, data_settings, make_loader, take
from tests.support.packed_sets import make_set


def test_batch_is_as_promised(folder: Path, tokenizer: Tokenizer) -> None:
    batch = next(iter(make_loader(tokenizer, data_settings(folder))))
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


@pytest.mark.slow
def test_workers_do_not_change_the_batches(
    folder: Path, second: Path, tokenizer: Tokenizer
) -> None:
    settings = data_settings(folder, second, paired=True, fused_caption="shuffled")
    expected = take(iter(make_loader(tokenizer, settings)), 5)
    loader = make_loader(tokenizer, dataclasses.replace(settings, workers=2))
    iterator = iter(loader)
    got = take(iterator, 3)
    state = iterator.get_state()
    got += take(iterator, 2)
    assert_equal(got, expected)
    # The position was saved with two workers; it continues with none.
    resumed = iter(make_loader(tokenizer, settings))
    resumed.set_state(json.loads(json.dumps(state)))
    assert_equal(take(resumed, 2), expected[3:])
    iterator.close()


@pytest.mark.slow
def test_workers_that_are_killed_are_started_anew_and_lose_no_batch(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = data_settings(folder)
    expected = take(iter(make_loader(tokenizer, settings)), 30)
    iterator = iter(make_loader(tokenizer, dataclasses.replace(settings, workers=1)))
    others = set(multiprocessing.active_children())

    def kill() -> None:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()

    got = take(iterator, 3)
    kill()
    got += take(iterator, 27)
    assert_equal(got, expected)
    monkeypatch.setattr(loader, "_MAX_KILLED", 1)
    kill()
    with pytest.raises(UserError, match=r"killed 2 times.*fewer data\.workers"):
        take(iterator, 1000)
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
    settings = data_settings(folder, second, **extra)
    expected = take(iter(make_loader(tokenizer, settings)), 4)
    shares = [
        take(iter(make_loader(tokenizer, settings, process_index=p, process_count=count)), 4)
        for p in range(count)
    ]
    joined = [
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for parts in zip(*shares, strict=True)
    ]
    assert_equal(joined, expected)


def test_resume_is_exact_at_every_step(folder: Path, tokenizer: Tokenizer) -> None:
    settings = data_settings(folder)
    expected = take(iter(make_loader(tokenizer, settings)), 7)
    iterator = iter(make_loader(tokenizer, settings))
    for step in (0, 3, 6, 2):
        iterator.set_state(
            {
                "step": step,
                "seen": 0,
                "bad": 0,
                "fingerprint": make_loader(tokenizer, settings).fingerprint,
            }
        )
        assert_equal(take(iterator, 1), expected[step : step + 1])
    assert iterator.get_state()["step"] == 3


def test_grain_saves_and_restores_the_iterator(
    folder: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    import orbax.checkpoint as ocp
    from grain.checkpoint import CheckpointRestore, CheckpointSave

    loader = make_loader(tokenizer, data_settings(folder))
    iterator = iter(loader)
    take(iterator, 3)
    with ocp.CheckpointManager(tmp_path.resolve()) as manager:
        manager.save(3, args=ocp.args.Composite(data=CheckpointSave(iterator)))
        manager.wait_until_finished()
        expected = take(iterator, 2)
        fresh = iter(make_loader(tokenizer, data_settings(folder)))
        manager.restore(3, args=ocp.args.Composite(data=CheckpointRestore(fresh)))
    assert_equal(take(fresh, 2), expected)


def test_a_position_of_other_data_is_refused(
    folder: Path, second: Path, tokenizer: Tokenizer
) -> None:
    state = iter(make_loader(tokenizer, data_settings(folder))).get_state()
    for other in (
        data_settings(folder, seed=5),
        data_settings(folder, batch_size=4),
        data_settings(folder, paired=True),
        data_settings(second),
    ):
        with pytest.raises(UserError, match="belongs to other data"):
            iter(make_loader(tokenizer, other)).set_state(state)
    changed = data_settings(folder, workers=3, prefetch=7, augment=AugmentSettings.none())
    iter(make_loader(tokenizer, changed)).set_state(state)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"methods": ("Nonesuch",)}, r"no fakes of method 'Nonesuch'.*it has: Deepfakes, FaceSwap"),
        ({"batch_size": 10}, "does not divide among 4 processes: take 8 or 12"),
        ({"batch_size": 4, "paired": True}, "whole pairs each: take 8"),
    ],
)
def test_unsuitable_settings_are_reported(
    folder: Path, tokenizer: Tokenizer, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        make_loader(tokenizer, data_settings(folder, **settings), process_count=4)


@pytest.mark.slow
def test_errors_in_a_worker_reach_the_user(tmp_path: Path, tokenizer: Tokenizer) -> None:
    folder = make_set(tmp_path, 2, ("Deepfakes",), bad=(0, 1))
    settings = data_settings(folder, paired=True, max_bad_share=1.0, workers=1)
    iterator = iter(make_loader(tokenizer, settings))
    with pytest.raises(UserError, match="in a row do not decode"):
        next(iterator)
    iterator.close()


def test_iterator_is_grains(folder: Path, tokenizer: Tokenizer) -> None:
    import grain

    assert isinstance(iter(make_loader(tokenizer, data_settings(folder))), TrainIterator)
    assert issubclass(TrainIterator, grain.DatasetIterator)


# --- evaluation ---


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
    assert_equal(list(shares[0]), batches[0])  # a second pass is the same


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


@pytest.mark.slow
def test_evaluation_with_workers_that_start_no_device(
    folder: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Grain imports JAX in a worker; a backend started there would take the accelerator."""
    plain = list(_evaluation(folder, tokenizer))
    monkeypatch.setenv("JAX_PLATFORMS", "no_such_platform")
    assert_equal(list(_evaluation(folder, tokenizer, workers=1)), plain)


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
