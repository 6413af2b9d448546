"""The table of chips."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import pytest

from jax_vlffd.compilation.chips import CHIPS, chip_of, count_chips


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v6 lite", "v6e"),
        ("TPU7x", "tpu7x"),
    ],
)
def test_a_chip_is_known_by_what_jax_calls_it(kind: str, name: str) -> None:
    chip = chip_of(kind)
    assert chip is not None
    assert chip.name == name


def test_a_cpu_is_no_chip() -> None:
    assert chip_of("cpu") is None


def test_no_kind_is_of_two_chips_and_every_line_has_its_source() -> None:
    kinds = [kind for chip in CHIPS for kind in chip.kinds]
    assert len(kinds) == len(set(kinds))
    assert all(chip.source.startswith("https://") for chip in CHIPS)


def test_a_device_has_its_share_of_the_chip() -> None:
    chip = chip_of("TPU7x")
    assert chip is not None
    share = chip.per_device()
    assert (share.hbm, share.peak_flops, share.devices) == (96 * 2**30, 2307e12 / 2, 1)


@pytest.mark.parametrize("cores", [1, 2])
def test_chips_are_counted_and_not_their_cores(cores: int) -> None:
    """A v4 chip shows as one device on a TPU VM, a chip of TPU7x as two; places repeat in each slice."""
    devices = [
        SimpleNamespace(id=n, slice_index=n // (4 * cores), coords=[0, (n // cores) % 4, 0])
        for n in range(8 * cores)
    ]
    assert count_chips(devices) == 8


def test_a_device_without_a_place_is_a_chip() -> None:
    assert count_chips(jax.devices()) == jax.device_count()
