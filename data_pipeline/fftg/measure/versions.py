"""The annotator's version, and the thresholds of older ones."""

from __future__ import annotations

from typing import Final

#: Incremented when the same input may get another annotation, so that old lines are annotated again.
VERSION: Final = 3
#: The thresholds of older versions, as the keys of their lines have them.
OLDER_THRESHOLDS: Final = {
    2: "smallest_face=24.0, largest_face=224.0, least_agreement=0.5, largest_shift=0.06, largest_crop=0.06, "
    "noise_margin=2.0, least_noise=0.75, largest_noise=10.0, least_noise_slope=0.1, largest_noise_slope=4.0, "
    "largest_motion=2.0, forged=0.35, forged_noisy=1.3, quiet=1.1, noisy=1.75, fringe=0.08, forged_given=0.1, "
    "color=4.4, blur=0.22, structure=0.031, texture=0.66, boundary=2.9"
}
