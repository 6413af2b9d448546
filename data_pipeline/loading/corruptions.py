"""Image corruptions at five severities, for robustness curves.

The kinds are those that the field tests (DeeperForensics-1.0, Jiang et al. 2020); the severities are
ours. Lengths are given for a picture of 256 pixels and scale with the shorter side, so that the
size a set is stored in does not change what a severity means.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from data_pipeline.loading.augment import recompress

#: What each severity from 1 to 5 is.
SEVERITIES: Final[dict[str, tuple[float, ...]]] = {
    "jpeg": (80, 60, 40, 25, 10),  # quality
    "blur": (0.5, 1.0, 1.75, 2.75, 4.0),  # sigma of a Gaussian, in pixels of 256
    "noise": (3, 6, 12, 20, 32),  # standard deviation in gray levels of 255
    "resize": (0.75, 0.5, 0.35, 0.25, 0.15),  # of the size, down and back up
    "brightness": (0.85, 0.7, 0.55, 0.4, 0.25),  # factor on the gray levels: a darker picture
}
#: The kinds of corruption, in the order of the report.
KINDS: Final = tuple(SEVERITIES)


@dataclass(frozen=True)
class Corruption:
    """One kind at one severity; it pickles, so that loader workers can apply it.

    Attributes:
        kind: one of KINDS.
        severity: 1 (slight) to 5 (severe).
    """

    kind: str
    severity: int

    def __post_init__(self) -> None:
        """Refuses an unknown kind or severity."""
        if self.kind not in SEVERITIES or not 1 <= self.severity <= 5:
            raise ValueError(f"{self.kind!r} of severity {self.severity} is not a corruption")

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Corrupts uint8 [H, W, 3] RGB; the same picture always comes out the same."""
        value = SEVERITIES[self.kind][self.severity - 1]
        height, width = image.shape[:2]
        if self.kind == "jpeg":
            return recompress(image, int(value))
        if self.kind == "blur":
            return cv2.GaussianBlur(image, (0, 0), value * min(height, width) / 256)
        if self.kind == "noise":
            # Seeded by the picture: the noise depends on no order of reading and on no worker.
            rng = np.random.default_rng([self.severity, zlib.crc32(image.tobytes())])
            noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(value)
            return cv2.add(image, noise, dtype=cv2.CV_8U)
        if self.kind == "resize":
            small = max(1, round(width * value)), max(1, round(height * value))
            shrunk = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
            return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_CUBIC)
        return cv2.convertScaleAbs(image, alpha=value)
