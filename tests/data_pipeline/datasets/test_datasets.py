"""What is the same for every adapter."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_pipeline.datasets import COMPRESSED, PLAIN
from jax_vlffd.errors import UserError


@pytest.mark.parametrize("name", [*COMPRESSED, *PLAIN])
def test_a_wrong_root_is_reported(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "absent", tmp_path / "empty"):
        with pytest.raises(UserError, match=r"--root=|cannot be read"):
            COMPRESSED[name](root, "c23") if name in COMPRESSED else PLAIN[name](root)
