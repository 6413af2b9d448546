"""Texts cut to what a batch needs: how long, over all processes, and that nothing else changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from jax_vlffd.config import LossConfig
from jax_vlffd.training import step as steps
from jax_vlffd.training.processes import SingleProcess
from jax_vlffd.training.sharding import to_devices
from jax_vlffd.training.step import make_train_step
from tests.support import tiny


def batch_of(*lengths: int, fused: int = 2) -> dict[str, np.ndarray]:
    """Texts of so many tokens, their end among them; branch 3's are all of `fused`."""
    batch = tiny.batch(size=len(lengths))
    for name, ends in (("tokens", lengths), ("fused_tokens", [fused] * len(lengths))):
        batch[name][:] = 1
        for row, end in zip(batch[name], ends, strict=True):
            row[end - 1 :] = tiny.EOS
    return batch


@pytest.mark.parametrize(
    ("lengths", "fused", "multiple", "needed"),
    [
        ((2, 5), 2, 1, 5),
        ((2, 5), 7, 1, 7),
        ((2, 5), 2, 4, 8),
        ((2, 4), 2, 4, 4),
        ((2, 19), 2, 8, 20),  # not a multiple: the context
        ((18, 3), 2, 7, 20),
        ((2, 5), 2, 100, 20),
    ],
)
def test_as_long_as_the_longest_rounded_up(
    lengths: tuple[int, ...], fused: int, multiple: int, needed: int
) -> None:
    spec = tiny.plan(pad_to_multiple_of=multiple).spec
    batch = batch_of(*lengths, fused=fused)
    assert steps.text_length(batch, spec) == needed
    short, length = steps.truncate_texts(batch, spec, SingleProcess())
    assert length == needed
    for name, value in batch.items():
        expected = value[:, :needed] if name in steps.TEXT_FIELDS else value
        np.testing.assert_array_equal(short[name], expected)


@pytest.mark.parametrize(
    ("multiple", "loss"), [(0, LossConfig()), (1, LossConfig(alignment=0, fusion=0))]
)
def test_texts_stay_as_they_are_where_none_is_read_or_none_is_to_be_cut(
    multiple: int, loss: LossConfig
) -> None:
    batch = batch_of(2, 5)
    spec = tiny.plan(loss=loss, pad_to_multiple_of=multiple).spec
    same, length = steps.truncate_texts(batch, spec, SingleProcess())
    assert length == tiny.TEXT.context_length
    assert all(same[name] is value for name, value in batch.items())


def test_the_longest_of_any_process_counts() -> None:
    """Every process has to run the same program."""

    class WithAnother(SingleProcess):
        def exchange(self, value: Any) -> list[Any]:
            return [value, 10]

    spec = tiny.plan(pad_to_multiple_of=2).spec
    for lengths, expected in (((2, 3), 10), ((5, 11), 12)):
        result, length = steps.truncate_texts(batch_of(*lengths), spec, WithAnother())
        assert length == result["tokens"].shape[1] == result["fused_tokens"].shape[1] == expected


@pytest.mark.slow
def test_a_step_on_shorter_texts_is_the_same_step() -> None:
    plan = tiny.plan(pad_to_multiple_of=1, separate_captions=True)
    batch = batch_of(*[3 + n % 5 for n in range(tiny.BATCH)], fused=6)
    short, length = steps.truncate_texts(batch, plan.spec, SingleProcess())
    assert length == 7
    step = make_train_step(plan)
    result = [step(tiny.state(plan), to_devices(values, plan.mesh)) for values in (batch, short)]
    (whole, of_whole), (cut, of_cut) = result
    for name, value in of_whole.items():
        np.testing.assert_allclose(of_cut[name], value, rtol=2e-5, atol=1e-6, err_msg=name)
    for name in ("text/position_embedding", "text/token_embedding", "fusion/attention/key/weight"):
        moved = np.asarray(whole.parameters[name]) - tiny.start()[name]
        assert np.abs(moved).max() > 1e-4, name
    assert tiny.difference(cut.parameters, whole.parameters) < 2e-5
