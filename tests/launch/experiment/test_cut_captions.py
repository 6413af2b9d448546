"""Captions that are longer than the model's context: counted before training, refused when most are."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from jax_vlffd.config import LossConfig, ModelConfig
from jax_vlffd.errors import UserError
from jax_vlffd.training.processes import SingleProcess
from launch.experiment import initialization
from launch.experiment import workdir as runs
from tests.support import tiny
from tests.support.training_runs import killed, run


def with_context(length: int) -> ModelConfig:
    clip = dataclasses.replace(
        tiny.CLIP, text=dataclasses.replace(tiny.TEXT, context_length=length)
    )
    return dataclasses.replace(tiny.model(), clip=clip)


def test_captions_that_the_context_cuts_are_counted_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tiny.pack_set(tmp_path / "set", captions=12)  # "10" and "11" are a token longer
    with killed("read", 0):
        run(tmp_path / "all_fit", packed, model=with_context(19))
    assert "captions" not in capsys.readouterr().err
    with killed("read", 0):
        run(tmp_path / "some_cut", packed, model=with_context(18))
    noted = re.findall(
        r"note: .*: (\d+) of 24 captions .* (\d+) tokens .* has (\d+)\)", capsys.readouterr().err
    )
    assert [(0 < int(cut) < 12, *rest) for cut, *rest in noted] == [(True, "18", "19")]


def test_a_context_that_cuts_most_captions_is_refused_but_not_where_a_run_goes_on(
    packed: Path, tmp_path: Path
) -> None:
    model = with_context(15)
    with pytest.raises(
        UserError, match=r"(\d+) of .* captions .*context_length .*; raise it, or take"
    ):
        run(tmp_path / "run", packed, model=model)
    assert not runs.is_begun(tmp_path / "run")
    settings = tiny.settings(packed, model=model)
    tokenizer = initialization.tokenizer_of(*settings, tmp_path / "none", SingleProcess())
    assert len(initialization.count_cut_captions(*settings, tokenizer, new=False)) == 1
    for changes in ({"captions": "label_only"}, {"loss": LossConfig(alignment=0, fusion=0)}):
        changed = tiny.settings(packed, model=model, **changes)
        assert initialization.count_cut_captions(*changed, tokenizer, new=True) == []
