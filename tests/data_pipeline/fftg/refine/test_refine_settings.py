"""Settings of a refinement: prices and errors."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("openai", reason="the extra `annotate` is not installed")

from data_pipeline.fftg.refine.settings import RefineSettings
from jax_vlffd.errors import UserError
from tests.support.refining import PRICES


def test_prices() -> None:
    assert RefineSettings(model="gpt-4o-mini").cost(1e6, 1e6) == pytest.approx(0.75)
    assert RefineSettings(model="of-my-own").prices is None
    # With a limit, an unknown model counts as the most expensive known one.
    assert RefineSettings(model="of-my-own", max_usd=1.0).prices == (2.5, 10.0)
    assert RefineSettings(model="gpt-4o", max_usd=1.0, **PRICES).prices == (1.0, 10.0)


@pytest.mark.parametrize(
    "wrong", [{"concurrency": 0}, {"rpm": -1}, {"timeout": 0}, {"retries": -1}, {"price_in": 1}]
)
def test_wrong_settings_are_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(wrong))}"):
        RefineSettings(**wrong)
