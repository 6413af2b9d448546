"""Settings of data and augmentations: what is wrong is named."""

from __future__ import annotations

from typing import Any

import pytest

from data_pipeline.loading.settings import AugmentSettings, DataSettings
from jax_vlffd.errors import UserError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": (("a", 0),)}, "data.train.0.1 is 0: it must be greater than 0"),
        ({"train": ("a",)}, "data.train.0 is 'a': it must be a valid tuple"),
        ({"validation": "a"}, "must be a valid tuple"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"balance": 1.0}, "balance is 1.0"),
        ({"balance": 0.5, "paired": True}, "cannot be set with"),
        ({"batch_size": 7, "paired": True}, "take 6 or 8"),
        ({"batch_size": 1, "paired": True}, "take 2$"),
        ({"fused_caption": "none"}, "'full', 'no_verdict' or 'shuffled'"),
        ({"captions": "best"}, "'all', 'raw', 'label_only'"),
        ({"max_bad_share": 2}, "less than or equal to 1"),
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
