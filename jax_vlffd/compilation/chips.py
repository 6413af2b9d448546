"""Accelerator specifications: memory, peak FLOP/s and link bandwidth, as published by their makers.

Used for the compilation report and for the utilization in a run's logs. Peaks are of dense bf16
products; nothing here is measured by us.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

_TPU = "https://docs.cloud.google.com/tpu/docs"
_NVIDIA = "https://www.nvidia.com/en-us/data-center"


@dataclass(frozen=True)
class Chip:
    """Specifications of one chip, which JAX may show as several devices.

    name: as in a topology's name. kinds: JAX's `device_kind`. hbm: bytes. peak_flops: bf16, per second.
    hbm_bandwidth: bytes per second. link_bandwidth: bytes per second out of the chip over all its links to
    other chips, one direction (half of the bidirectional figure). source: URL of the figures. pod: largest
    number of linked chips. devices: JAX devices per chip.
    """

    name: str
    kinds: tuple[str, ...]
    hbm: float
    peak_flops: float
    hbm_bandwidth: float
    link_bandwidth: float
    source: str
    pod: int
    devices: int = 1

    def per_device(self) -> Chip:
        """The share of one device."""
        shares = {
            name: getattr(self, name) / self.devices
            for name in ("hbm", "peak_flops", "hbm_bandwidth", "link_bandwidth")
        }
        return dataclasses.replace(self, **shares, devices=1)


_GB, _GIB, _T = 1e9, 2.0**30, 1e12

CHIPS: tuple[Chip, ...] = (
    # v4's links are from Jouppi et al. 2023, "TPU v4", table 4: six of 50 GB/s. Compiled for without a TPU,
    # a v4 chip shows as two devices; a TPU VM shows it as one.
    Chip("v4", ("TPU v4",), 32 * _GIB, 275 * _T, 1200 * _GB, 300 * _GB, f"{_TPU}/v4", 4096, 2),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 16 * _GIB, 197 * _T, 819 * _GB, 200 * _GB, f"{_TPU}/v5e", 256),
    Chip("v5p", ("TPU v5", "TPU v5p"), 95 * _GIB, 459 * _T, 2765 * _GB, 600 * _GB, f"{_TPU}/v5p", 8960),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 32 * _GIB, 918 * _T, 1638 * _GB, 400 * _GB, f"{_TPU}/v6e", 256),
    Chip("tpu7x", ("TPU7x",), 192 * _GIB, 2307 * _T, 7380 * _GB, 600 * _GB, f"{_TPU}/tpu7x", 9216, 2),
    Chip("a100", ("NVIDIA A100-SXM4-80GB",), 80 * _GB, 312 * _T, 2039 * _GB, 300 * _GB, f"{_NVIDIA}/a100/", 8),
    Chip("h100", ("NVIDIA H100 80GB HBM3",), 80 * _GB, 989 * _T, 3350 * _GB, 450 * _GB, f"{_NVIDIA}/h100/", 8),
    Chip("h200", ("NVIDIA H200",), 141 * _GB, 989 * _T, 4800 * _GB, 450 * _GB, f"{_NVIDIA}/h200/", 8),
)  # fmt: skip


def chip_of(device_kind: str) -> Chip | None:
    """The chip of JAX's `device_kind`; None if it is not in the table (such as a CPU)."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def count_chips(devices: Iterable[Any]) -> int:
    """Number of chips of JAX's devices; a chip of two cores may show as one device or as two."""
    # A TPU device has the coordinates of its chip within the slice; a GPU is a chip.
    return len(
        {(getattr(d, "slice_index", 0), tuple(getattr(d, "coords", (d.id,)))) for d in devices}
    )
